# nvmefence: make demo and make test do everything on a fresh Debian machine, as root.
# Everything lands in .venv and .cache of this folder; apt installs what Debian has.

SHELL := /bin/bash
PYTHON ?= $(shell command -v /usr/bin/python3 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PREFIX ?= /opt/nvmefence
SBIN ?= /usr/sbin
ETC ?= /etc
SHARE ?= /usr/local/share
AGENTS := fence_gfs2_recorder fence_nvmefence
PROGRAMS := nvmefence $(AGENTS)
# The reporter to Kubernetes has an environment of its own: what its client library needs comes near no fence.
REPORTER := nvmefence-nnf-report
REPORTER_PREFIX ?= /opt/$(REPORTER)

SOURCE := build/source/nvmefence-$(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' nvmefence/__init__.py)

.PHONY: help demo test model check bench chaos chaos-lab lab install install-nnf-report uninstall build lab-packages \
  cluster-packages model-packages monitoring-packages manual-packages browser-packages clean \
  distclean source wheel deb rpm packages test-packages matrix

help:
	@echo "make demo     boot an emulated Rabbit, have Pacemaker fence a compute that is writing, show what happens (root)"
	@echo "make test     all tests: unit, property, system, and in the lab under a real kernel (root)"
	@echo "make model    all states of the protocol, within larger bounds than make test has (minutes, 5 GB of memory)"
	@echo "make check    lint, formatting, types, C warnings"
	@echo "make bench    measure it: against the bare minimum, nvme-cli, and the committed figures (root, about 25 minutes)"
	@echo "make chaos    try for CHAOS_BUDGET seconds (600) to make it lie, hang or lose something; CHAOS_SEED to repeat (root)"
	@echo "make chaos-lab   the same with the drives of the lab: faults, fences and restores of many hosts (root)"
	@echo "make lab      a shell inside the emulated Rabbit (root)"
	@echo "make install  into $(PREFIX), links in $(SBIN), unit file in $(ETC), manual pages in $(SHARE) (root)"
	@echo "make install-nnf-report  the reporter to Kubernetes into $(REPORTER_PREFIX), beside an installation of either kind (root)"
	@echo "make packages a wheel, a Debian package and an RPM, in dist/; or one of: make wheel, make deb, make rpm"
	@echo "make test-packages  build them, and install each in a clean environment (root, minutes)"
	@echo "make matrix   unit tests on every Python and with every compiler that can be had, and on aarch64 (root, minutes)"

# The virtual environment, and the C core built into it.
$(VENV)/.ready: pyproject.toml setup.py $(wildcard csrc/*)
	@echo "== virtual environment in $(VENV), with the C core and what the tests need"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nvmefence needs Python 3.11 or newer; this is $$($(PYTHON) --version). Set PYTHON=..."; exit 1; }
	@packaging/ensure-packages build
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=68" "cffi>=1.16" wheel
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --config-settings editable_mode=compat -e ".[dev]"
	@touch $@

build: $(VENV)/.ready

lab-packages: build
	@$(BIN)/python -m tests.lab install || echo "== the lab cannot be had here; what needs it is left out and named"

cluster-packages:
	@packaging/ensure-packages cluster || echo "== Pacemaker cannot be had here; what needs it is left out and named"
	@packaging/ensure-packages gfs2 || echo "== GFS2 cannot be had here; what needs it is left out and named"

monitoring-packages: build
	@packaging/ensure-packages monitoring || echo "== promtool cannot be had here; what needs it is left out and named"

demo: lab-packages cluster-packages
	@$(BIN)/python -m tests.lab.demo

model-packages:
	@packaging/ensure-packages model || echo "== spin cannot be had here; what needs it is left out and named"

manual-packages:
	@packaging/ensure-packages manual || echo "== tests of manual pages or completion are left out and named"

browser-packages:
	@packaging/ensure-packages browser || echo "== a browser cannot be had here; how a report looks in one is left out and named"

test: check lab-packages cluster-packages model-packages monitoring-packages manual-packages browser-packages
	@echo "== tests; what is left out is named at the end of each part with the reason"
	@rm -rf .cache/coverage
	@tests/run $(BIN)/python
	@$(BIN)/python -m coverage combine --quiet || true
	@$(BIN)/python -m coverage report --skip-covered --fail-under=85

model: build model-packages
	@NVMEFENCE_MODEL=big $(BIN)/python -m pytest tests/model -rP

check: build
	@echo "== lint, formatting, types"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@echo "== C without warnings"
	@gcc -std=c11 -D_GNU_SOURCE -fsyntax-only -Wall -Wextra -Wconversion -Werror -Icsrc csrc/*.c

bench: lab-packages
	@$(BIN)/python -m tests.bench

CHAOS_BUDGET ?= 600
chaos: build
	@$(BIN)/python -m tests.chaos --budget $(CHAOS_BUDGET) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

chaos-lab: lab-packages
	@$(BIN)/python -m tests.chaos --lab --budget $(CHAOS_BUDGET) $(if $(CHAOS_SEED),--seed $(CHAOS_SEED))

lab: lab-packages
	@$(BIN)/python -m tests.lab shell

# Manual pages and completion, as an archive of the sources has them, or made: $(1) is the interpreter with nvmefence,
# $(2) where the guide will be.
define make-manual
	@rm -rf build/made build/shtab
	@if [ -d made ]; then mkdir -p build && cp -r made build/made; else \
	  $(1) -m pip install --quiet --disable-pip-version-check --target build/shtab "shtab>=1.7" && \
	  PYTHONPATH=build/shtab $(1) -B packaging/manual build/made --doc $(2); fi
endef

install:
	@packaging/ensure-packages build
	@echo "== nvmefence into $(PREFIX); $(PROGRAMS) linked into $(SBIN)"
	@$(PYTHON) -m venv $(PREFIX)
	@$(PREFIX)/bin/python -m pip install --quiet --disable-pip-version-check ".[terminal]"
	@set -e; for agent in $(AGENTS); do \
	  packaging/write-agent $(PREFIX)/bin/python $$agent > $(PREFIX)/bin/$$agent; \
	done
	@mkdir -p $(SBIN)
	@for name in $(PROGRAMS); do ln -sf $(PREFIX)/bin/$$name $(SBIN)/$$name; done
	@echo "== unit file (not enabled), tmpfiles.d and logrotate.d into $(ETC)"
	@install -d -m 755 $(ETC)/nvmefence $(ETC)/systemd/system $(ETC)/tmpfiles.d $(ETC)/logrotate.d
	@sed 's|/usr/sbin/nvmefence|$(SBIN)/nvmefence|' packaging/systemd/nvmefence-watcher.service \
	  > $(ETC)/systemd/system/nvmefence-watcher.service
	@install -m 644 packaging/tmpfiles.d/nvmefence.conf $(ETC)/tmpfiles.d/nvmefence.conf
	@install -m 644 packaging/logrotate.d/nvmefence $(ETC)/logrotate.d/nvmefence
	@echo "== manual pages, completion and examples into $(SHARE)"
	$(call make-manual,$(PREFIX)/bin/python,$(SHARE)/doc/nvmefence)
	@install -D -m 644 -t $(SHARE)/man/man5 build/made/man/man5/*
	@install -D -m 644 -t $(SHARE)/man/man8 build/made/man/man8/*
	@install -D -m 644 -t $(SHARE)/bash-completion/completions build/made/completions/*
	@install -D -m 644 -t $(SHARE)/doc/nvmefence README.md SECURITY.md CHANGELOG.md
	@rm -rf $(SHARE)/doc/nvmefence/docs
	@cp -r docs $(SHARE)/doc/nvmefence/docs
	@chmod -R u=rwX,go=rX $(SHARE)/doc/nvmefence/docs
	@install -D -m 644 -t $(SHARE)/doc/nvmefence/examples packaging/examples/* packaging/monitoring/* packaging/kubernetes/*
	@install -m 644 packaging/systemd/nvmefence-watcher.service.d/after-fence.conf.example \
	  $(SHARE)/doc/nvmefence/examples/after-fence.conf
	@$(SBIN)/nvmefence version
	@echo "next, once for each enclosure:"
	@echo "  nvmefence hosts discover > $(ETC)/nvmefence/hosts.toml, fill in the hosts, nvmefence check"
	@echo "  systemd-tmpfiles --create nvmefence.conf && systemctl daemon-reload"
	@echo "  systemctl enable --now nvmefence-watcher"
	@echo "the guide, by task: $(SHARE)/doc/nvmefence/docs/guide.md"

install-nnf-report:
	@packaging/ensure-packages build
	@echo "== $(REPORTER) and its client library into $(REPORTER_PREFIX), linked into $(SBIN)"
	@$(PYTHON) -m venv $(REPORTER_PREFIX)
	@$(REPORTER_PREFIX)/bin/python -m pip install --quiet --disable-pip-version-check ".[kubernetes]"
	@mkdir -p $(SBIN)
	@ln -sf $(REPORTER_PREFIX)/bin/$(REPORTER) $(SBIN)/$(REPORTER)
	@echo "== unit file (not enabled), sysusers.d and tmpfiles.d into $(ETC)"
	@install -d -m 755 $(ETC)/nvmefence $(ETC)/systemd/system $(ETC)/sysusers.d $(ETC)/tmpfiles.d
	@sed 's|/usr/sbin/$(REPORTER)|$(SBIN)/$(REPORTER)|' packaging/systemd/$(REPORTER).service \
	  > $(ETC)/systemd/system/$(REPORTER).service
	@install -m 644 packaging/sysusers.d/$(REPORTER).conf $(ETC)/sysusers.d/$(REPORTER).conf
	@install -m 644 packaging/tmpfiles.d/$(REPORTER).conf $(ETC)/tmpfiles.d/$(REPORTER).conf
	@echo "== manual page and completion into $(SHARE)"
	$(call make-manual,$(REPORTER_PREFIX)/bin/python,$$(ls -d $(SHARE)/doc/nvmefence 2>/dev/null || echo /usr/share/doc/nvmefence))
	@install -D -m 644 -t $(SHARE)/man/man8 build/made/nnf-report/man/man8/*
	@install -D -m 644 -t $(SHARE)/bash-completion/completions build/made/nnf-report/completions/*
	@$(SBIN)/$(REPORTER) --version

uninstall:
	@echo "== stays: $(ETC)/nvmefence, logs, audit, requests and responses"
	@rm -f $(foreach name,$(PROGRAMS),$(SBIN)/$(name))
	@rm -f $(ETC)/systemd/system/nvmefence-watcher.service $(ETC)/tmpfiles.d/nvmefence.conf $(ETC)/logrotate.d/nvmefence
	@rm -f $(foreach name,$(PROGRAMS) $(REPORTER),$(SHARE)/bash-completion/completions/$(name))
	@rm -f $(SHARE)/man/man5/nvmefence*.5 $(SHARE)/man/man8/nvmefence*.8
	@rm -f $(foreach name,$(AGENTS),$(SHARE)/man/man8/$(name).8)
	@rm -f $(SBIN)/$(REPORTER) $(ETC)/systemd/system/$(REPORTER).service
	@rm -f $(ETC)/sysusers.d/$(REPORTER).conf $(ETC)/tmpfiles.d/$(REPORTER).conf
	@rm -rf $(PREFIX) $(REPORTER_PREFIX) $(SHARE)/doc/nvmefence

# Who answers for the packages, "Name <address>". Without it they name nobody: packaging/build-deb.
export MAINTAINER

# What packages are built from, clean of what earlier builds left.
source: build
	@mkdir -p build/source dist
	@packaging/make-source build/source >/dev/null
	@cp $(SOURCE).tar.gz dist/

wheel: source
	@$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist $(SOURCE)
	@ls dist/*.whl

deb: source
	@packaging/ensure-packages packages
	@packaging/build-deb $(SOURCE) dist
	@ls dist/*.deb

rpm: source
	@packaging/ensure-packages packages
	@packaging/build-rpm $(SOURCE) dist
	@ls dist/*.rpm

packages: wheel deb rpm

test-packages: packages
	@packaging/ensure-packages clean-root
	@NVMEFENCE_PACKAGES=1 $(BIN)/python -m pytest tests/packages

matrix: source
	@packaging/ensure-packages matrix
	@$(BIN)/python packaging/matrix.py

clean:
	@rm -rf build dist *.egg-info .cache/coverage .cache/pytest .mypy_cache .ruff_cache .hypothesis
	@rm -f nvmefence/nvme/_queue.c nvmefence/nvme/_queue*.so $(VENV)/.ready

distclean: clean
	@rm -rf $(VENV) .cache
