"""Chat templates that want out of the sandbox, never end, or write without bounds."""

from __future__ import annotations

REFUSED, CUT, FAILED = "tasks.template_refused", "tasks.template_cut", "tasks.template_failed"

_NS = "{% set ns = namespace(x='xxxxxxxx', l=['a'], t=('a',), n=3) %}"


def _loop(body: str, times: int = 99_999) -> str:
    return f"{{% for i in range({times}) %}}{body}{{% endfor %}}"


_LONG = "{% set l = range(99999)|list %}{% set m = range(99999)|list %}"
_PAIR = "{% set ns = namespace(t=('a', 'b')) %}" + _loop("{% set ns.t = (ns.t, ns.t) %}", 16) + "{% set t = ns.t %}"


HOSTILE: dict[str, tuple[str, str]] = {
    # out of the sandbox
    "class of a text": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", FAILED),
    "globals of a method": ("{{ messages.index.__globals__['os'].popen('id').read() }}", FAILED),
    "globals of a global": ("{{ raise_exception.__globals__.os.system('id') }}", FAILED),
    "globals of namespace": ("{{ namespace.__init__.__globals__.sys }}", FAILED),
    "globals of cycler": ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", FAILED),
    "the loop's own": ("{% for m in messages %}{{ loop.__init__.__globals__ }}{% endfor %}", FAILED),
    "a macro's own": ("{% macro f() %}{% endmacro %}{{ f.__call__.__func__.__globals__.x }}", FAILED),
    "attributes by item": ("{{ messages['__class__']['__base__'].x }}", FAILED),
    "attributes by filter": ("{{ ''|attr('__class__') }}", REFUSED),
    "attributes by map": ("{{ (messages|map(attribute='__class__')|list)[0].x }}", FAILED),
    "format string": ("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}", FAILED),
    "format map": ("{{ '{x.__class__}'.format_map({'x': 1}) }}", FAILED),
    "format of a marked text": ("{{ ('{0.__class__}'|safe).format(1) }}", FAILED),
    "format by percent": ("{{ '%1000000000d' % 1 }}", CUT),
    "a file": ("{% include '/etc/passwd' %}", REFUSED),
    "a module": ("{% import 'os' as os %}", REFUSED),
    "a parent": ("{% extends 'x' %}", REFUSED),
    # never ending
    "loops in loops": (_loop(_loop("")), CUT),
    "loops in a macro": ("{% macro f() %}" + _loop("{{ i }}") + "{% endmacro %}" + _loop("{{ f() }}"), CUT),
    "a macro that calls itself": ("{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", CUT),
    "a loop that calls itself": ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", CUT),
    "a range of 10^12": ("{% for i in range(1000000000000) %}{% endfor %}", CUT),
    "sorting again and again": (_loop("{% set x = range(99999)|sort|list %}"), CUT),
    "joining again and again": (_loop("{% set x = range(9999)|join('-') %}"), CUT),
    "comparing": (_loop("{% if range(9999)|list == range(9999)|list %}{% endif %}"), CUT),
    "the test of a loop": ("{% for i in range(99999) if 'a' in range(99999) %}{% endfor %}", CUT),
    "tests of a filter": ("{{ range(99999)|map('string')|select('in', range(99999))|list|length }}", CUT),
    "looking again and again": ("{{ [" + "'a' in range(99999)," * 1000 + "] }}", CUT),
    "comparing in one expression": (_LONG + "{{ [" + "l==m," * 2000 + "] }}", CUT),
    "counting in one expression": (_LONG + "{{ [" + "l.count(0)," * 2000 + "] }}", CUT),
    "the largest in one expression": (_LONG + "{{ [" + "l|max," * 2000 + "] }}", CUT),
    "keys without keys": ("{% set k = {'a': 1}.keys() %}{{ k - k }}", CUT),
    "pairs as keys": (_PAIR + "{{ [" + "{t: 1}," * 2000 + "]|length }}", CUT),
    "changes in one expression": (
        _LONG + "{% for i in [1] %}{{ [" + "loop.changed(l,m)," * 2000 + "] }}{% endfor %}",
        CUT,
    ),
    "a thousand attributes": ("{{ range(200)|sort(attribute='" + "a," * 9000 + "') }}", CUT),
    "attributes of everything": ("{{ range(99999)|sort(attribute='" + "a," * 60 + "')|list|length }}", CUT),
    "attributes in a path": ("{{ range(99999)|map(attribute='" + "a." * 9000 + "')|list|length }}", CUT),
    "long defaults": (
        "{% set x = 'x' * 900000 %}{{ range(9999)|map(attribute='a', default=x)|map('upper')|map('length')|list }}",
        CUT,
    ),
    "unique defaults": ("{% set x = 'x' * 900000 %}{{ range(9999)|map(attribute='a', default=x)|unique|list }}", CUT),
    "stripping many letters": ("{{ ('a' * 900000)|trim('b' * 450000 ~ 'a') }}", CUT),
    "stripping by method": ("{{ ('a' * 900000).strip('b' * 450000 ~ 'a') }}", CUT),
    "looking from behind": ("{{ ('a' * 900000).rfind('ab' ~ 'a' * 450000) }}", CUT),
    "parting from behind": ("{{ ('a' * 900000).rsplit(sep='ab' ~ 'a' * 450000)|length }}", CUT),
    "a budget refilled by a filter": ("{{ [-1000000000]|map('\x00tick')|list }}" + _loop(_loop("")), FAILED),
    "a budget refilled by an indent": ("{{ 'a'|indent(-1000000000) }}{{ 'x' * 1000000000 }}", CUT),
    "a budget refilled again and again": (_loop("{{ 'a'|indent(-1000000000) }}{% set x = 'x' * 900000 %}"), CUT),
    # without bounds
    "format by a test": ("{{ '%1000000000d' is odd }}", CUT),
    "format by another test": ("{{ ['%1000000000d']|select('divisibleby', 7)|list }}", CUT),
    "a number of 10^6 bits": ("{{ ('f' * 300000)|int(0, 16) % 7 }}", CUT),
    "numbers as text": ("{% set l = [10 ** 300] * 90000 %}{{ [l, l, l, l, l, l, l, l, l] }}", CUT),
    "10^9 characters": ("{{ 'x' * 1000000000 }}", CUT),
    "10^9 items": ("{{ [0] * 1000000000 }}", CUT),
    "10^9 blanks by filter": ("{{ 'x'|center(1000000000) }}", REFUSED),
    "10^9 blanks by method": ("{{ 'x'.ljust(1000000000) }}", FAILED),
    "10^9 blanks by zfill": ("{{ 'x'.zfill(1000000000) }}", FAILED),
    "10^9 blanks of indent": ("{{ 'a\nb'|indent(1000000000) }}", CUT),
    "10^9 blanks of JSON": ("{{ [[1]]|tojson(indent=1000000000) }}", CUT),
    "10^9 bytes of a number": ("{{ (1).to_bytes(1000000000, 'big') }}", FAILED),
    "10^9 words": ("{{ lipsum(n=1000000000) }}", FAILED),
    "10^9 places of time": ("{{ strftime_now('%1000000000d') }}", CUT),
    "doubling by joining": (_NS + _loop("{% set ns.x = ns.x ~ ns.x %}", 100), CUT),
    "doubling by adding": (_NS + _loop("{% set ns.x = ns.x + ns.x %}", 100), CUT),
    "doubling by replacing": (_NS + _loop("{% set ns.x = ns.x.replace('x', 'xx') %}", 100), CUT),
    "doubling by a filter": (_NS + _loop("{% set ns.x = ns.x|replace('x', 'xx') %}", 100), CUT),
    "doubling by joining a text": (_NS + _loop("{% set ns.x = 'xx'.join(ns.x) %}", 100), CUT),
    "doubling a list in a list": (_NS + _loop("{% set ns.l = [ns.l, ns.l] %}", 100) + "{{ ns.l }}", CUT),
    "doubling a pair as a key": (_NS + _loop("{% set ns.t = (ns.t, ns.t) %}", 100) + "{{ {ns.t: 1} }}", CUT),
    "doubling tables": (_NS + _loop("{% set ns.l = dict(a=ns.l, b=ns.l) %}", 100) + "{{ ns.l|tojson }}", CUT),
    "squaring": (_NS + _loop("{% set ns.n = ns.n * ns.n %}") + "{{ ns.n }}", CUT),
    "a power": ("{{ 10 ** (10 ** 9) }}", CUT),
    "a thing that holds itself": (_NS + "{% set ns.self = ns %}{{ ns }}", CUT),
    "replacing nothing": ("{{ ('a' * 100000).replace('', 'b' * 100000) }}", CUT),
    "joining with a long text": ("{{ ('x' * 100000)|join('y' * 100000) }}", CUT),
    "text of the template": (_loop("x" * 60_000), CUT),
    "text of the template, kept": ("{% set y %}" + _loop("x" * 60_000) + "{% endset %}{{ y|length }}", CUT),
    "slices kept": (
        "{% set ns = namespace(x='x' * 900000, l=[]) %}" + _loop("{% set ns.l = ns.l + [ns.x[i:]] %}"),
        CUT,
    ),
    # too deep or too long for the parser and the compiler
    "6,000 parentheses": ("{{ " + "(" * 6000 + "1" + ")" * 6000 + " }}", REFUSED),
    "6,000 brackets": ("{{ " + "[" * 6000 + "]" * 6000 + " }}", REFUSED),
    "6,000 open braces": ("{{ " + "{1:" * 6000, REFUSED),
    "3,000 conditions": ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, REFUSED),
    "6,000 times not": ("{{ " + "not " * 6000 + "1 }}", REFUSED),
    "6,000 sums": ("{{ " + "1+" * 6000 + "1 }}", REFUSED),
    "6,000 attributes": ("{{ a" + ".a" * 6000 + " }}", REFUSED),
    "a number of 50,000 digits": ("{{ " + "9" * 50_000 + " }}", REFUSED),
    "60,000 braces": ("{" * 60_000, REFUSED),
    "20,000 beginnings": ("{{-" * 20_000, REFUSED),
    "an open comment": ("{#" * 30_000, REFUSED),
    "100 KB": ("x" * 100_000, REFUSED),
    "no template at all": ("{% unknown %}", REFUSED),
    # what the messages do not have
    "a missing role": ("{% for m in messages %}{{ m['role'] + m['rolle'] }}{% endfor %}", FAILED),
    "a missing message": ("{{ messages[17].content.x }}", FAILED),
    "a missing variable": ("{{ missing.role }}", FAILED),
    "its own complaint": ("{{ raise_exception('roles must alternate') }}", FAILED),
    "a long complaint": ("{{ raise_exception('x' * 900000) }}", FAILED),
}
