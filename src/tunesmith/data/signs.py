"""Signs in texts by which filters know advertisements, refusals, placeholders and texts that break off."""

from __future__ import annotations

LOST = "\ufffd|锟斤拷|[\ue000-\uf8ff]{2}"
"""What is left where bytes were taken for characters that do not exist."""
# A text is an advertisement by two signs of different kinds; one alone stands in honest texts about selling, too.
AD_SIGNS = (
    r"(?i)https?://|www\.|扫码|二维码|加(?:群|微信|vx|v信|我)|私聊|\bDM me\b|whatsapp",
    r"(?i)立即(?:抢购|购买|下单)|马上(?:抢购|下单)|限时(?:秒杀|特价|优惠|抢购)|秒杀|领红包|免费领|全场\d+折|包邮"
    r"|buy now|order now|shop now"
    r"|limited[ -]time offer|act now|click here|click click|join (?:now|http)",
    r"(?i)日赚\d+|月入(?:过万|\d+)|兼职|刷单|躺赚|稳赚|代开发票|earn \$? ?\d+|\d+ ?% off|work from home|from home"
    r"|no experience|free free"
    r"|make money|100% free|guaranteed (?:income|profit)",
    r"!{3}|！{3}|>>>|【广告】|\[ad\]|🔥{2}",
)  # fmt: skip
LONGEST_AD = 400
REFUSALS = (
    r"(?i)\bas an ai(?: language)?(?: model| assistant)?,? i(?:'m| am)? (?:cannot|can ?not|can't|can’t|unable"
    r"|not able|do not|don't|don’t)",
    r"(?i)\bi(?:'m| am|’m) sorry,? (?:but )?(?:i|as an ai)\b.{0,40}(?:cannot|can't|can’t|unable|not able)",
    r"(?i)^i (?:cannot|can't|can’t|am unable to) (?:assist|help|fulfil|fulfill|comply|complete|provide|do that)",
    r"作为(?:一个|一名)?(?:人工智能|AI).{0,12}(?:无法|不能|没有能力)",
    r"(?:抱歉|对不起).{0,24}(?:无法|不能|没办法)(?:完成|回答|提供|协助|帮助|满足|处理|执行|访问)",
)
LONGEST_REFUSAL = 300
PLACEHOLDERS = (
    r"(?:^|[^\w}\\])\{\{\s*[A-Za-z_][A-Za-z_ ]{2,30}\}\}|(?i)\[(?:insert|your|enter) [^\]\n]{1,40}\]|<(?:insert|your"
    r"|enter)[ _][^>\n]{1,40}>"
    r"|\bTODO\b|\bTBD\b|\bFIXME\b|lorem ipsum|【(?:请)?(?:填写|插入|在此)[^】\n]{0,20}】|此处(?:填写|插入|省略)|待补充"
)
NO_ANSWER = r"(?i)^\s*(?:n/?a|null|none|nil|nan|undefined|无|暂无|空|-+|\.+|…+|。+|/)\s*[.。]?\s*$"
# Words after which no sentence ends: articles, prepositions, conjunctions, measure words.
GOES_ON = (
    r"(?:[,，、:：(（\[{<+&=@#-]|\b(?i:a|an|the|of|and|or|but|to|in|on|at|for|from|with|by|as|is|are|was|were|be|that|which|who|if|when"
    r"|because|its|their|his|her|my|your|our|this|these|than|into|such|not)|[和与及或在是把被将对从向为比让使给但而且因虽若如即其这那每各一两几])\s*$"
)
SENTENCE_ENDS = r"[.。!！?？…][\"'”’」』)）\]】]*(?:\s|[^\x00-\x7f]|$)"
ENDED = r"(?:[.。．;；!！?？…~～^|>%％*_`$\d\"'”’」』)）\]】}》〉]|\p{So}|\p{Emoji_Presentation})\s*$"
SELDOM_LAST = (
    "和一在可以为这于不并对提更到通工种使发自或最进供保常将其需与些得所经公算电建从网都客技相决设帮够主结很特还安交及无也创智正该当让括减每取两健世选非被由增预收回模"
    "造但管找联资第做完运传且社海许根适满达三教排获指直各总给那游优基什医欢营购科轻至广太深未清政充打消细再原没反共领销吸推续极必只拥参认专随简研即故几二朋希采治英访"
    "印投含邮控编寻探罗首企已努黑某修储检汽免玩植防哪潜往职否另执协氧微订巨鼓范杯才际饮挑老按严患四须允负污描女举波仅森均背疾监早坚媒跟沙操勇黄返"
)  # fmt: skip
"""Chinese characters before fewer than 3 in 100 of which a clause ends, by 3,800 answers of chats."""
LISTED = r"^\s*(?:[-*•·#|>]|\d+[.)、]|[A-Z][\w ]{0,30}:)"
"""How lines begin that may have no full stop: items of lists, headings, names of fields."""
TITLE_BEHIND = r"[.。!！?？] +[^.。!！?？]{2,60}$"
"""A title behind the last sentence of a Chinese text, which has no other blank there."""
LINE_ENDED = r"""(?m)[.。!！?？;；:：]["'”’」』)）\]】*_]*[ \t]*$"""
SENTENCE_WORDS = (
    r"\b(?:the|a|an|of|to|in|is|are|was|were|and|that|it|for|with|on|by|from|as|has|have|had|he|she|they|you|we|I|be"
    r"|can|will|this|their|its|your)\b"
)
