# `make` alone lists the verbs. What is longer than a few lines lives in mk/ and molecule/shared/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Ansible and molecule call their helpers by name, so the environment comes first on the PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# A playbook is hundreds of short Python programs: where nothing they compile is kept, a run takes a third longer.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/pycache

INVENTORY ?= inventory.ini
ARGS ?=
TO ?=
POOL ?=
N ?=
ROWS ?=
# Of the command line only: some systems have a NAME in the environment
NAME =
SCOPES =
FROM =
BUDGET =
KEY =
ROUNDS =
SECONDS =
ONLY =
# Empty unless somebody says which; see mk/hosts.sh
NAMED_INVENTORY := $(if $(filter file,$(origin INVENTORY)),,$(INVENTORY))

SANDBOX := mk/sandbox.sh

.PHONY: help
help:
	@mk/help.sh $(MAKEFILE_LIST)

##@ Try it here, in a disposable host
.PHONY: up url send talk mail flower logs shell down
up: env engine ## Build the sandbox, or run the playbook on it again, and deliver a mail
	@$(SANDBOX) up
url: env ## Print the addresses that answer now; without a sandbox, the public ones of inventory.ini
	@mk/hosts.sh url "$(NAMED_INVENTORY)" $(ARGS)
send: .venv/.complete ## Queue a mail and follow it to its end: make send TO=me@example.com
	@$(SANDBOX) send "$(TO)"
talk: .venv/.complete ## Write the time to /var/log/messaging_system.log
	@$(SANDBOX) talk
mail: ## List the delivered mail, and how to open one
	@$(SANDBOX) mail
flower: ## Where Flower and the operators' page show what happens, and their password
	@$(SANDBOX) flower
logs: ## Follow the journal of the services (Ctrl-C ends it)
	@$(SANDBOX) logs
shell: ## A root shell in the sandbox
	@$(SANDBOX) shell
down: ## Remove the sandbox and everything in it
	@$(SANDBOX) down

##@ Your own hosts
.PHONY: deploy
deploy: env ## Run the playbook: make deploy INVENTORY=inventory.ini ARGS="--check --diff"
	@mk/hosts.sh deploy "$(INVENTORY)" $(ARGS)

##@ The sandbox if it is there, otherwise inventory.ini; or name one: INVENTORY=production.ini
.PHONY: status start stop scale rollback rotate-secrets upgrade-rabbitmq key-add key-list key-revoke backup restore remove
status: env ## One screen: what runs, queues, versions, errors, what expires; fails where something is wrong
	@mk/hosts.sh status "$(NAMED_INVENTORY)" $(ARGS)
start: env ## Start the whole stack and wait until it is ready
	@mk/hosts.sh start "$(NAMED_INVENTORY)" $(ARGS)
stop: env ## Stop the whole stack; running tasks finish
	@mk/hosts.sh stop "$(NAMED_INVENTORY)" $(ARGS)
scale: env ## Another number of workers, until the next deploy: make scale POOL=email N=4
	@mk/hosts.sh scale "$(NAMED_INVENTORY)" -e scale_pool="$(POOL)" -e scale_to="$(N)" $(ARGS)
rollback: env ## Back to the release that was live before, or to a named one: make rollback TO=<release>
	@mk/hosts.sh rollback "$(NAMED_INVENTORY)" -e release_to="$(TO)" $(ARGS)
rotate-secrets: env ## Give all hosts new passwords; no mail is lost. Stopped half-way: once more
	@mk/hosts.sh rotate_secrets "$(NAMED_INVENTORY)" $(ARGS)
upgrade-rabbitmq: env ## The newest RabbitMQ that the distribution offers, one broker after the other
	@mk/hosts.sh upgrade_rabbitmq "$(NAMED_INVENTORY)" $(ARGS)
# Through the environment: no quotes to get wrong
key-add: export key_name = $(NAME)
key-revoke: export key_name = $(KEY)
key-add: export key_scopes = $(SCOPES)
key-add: export key_budget = $(BUDGET)
key-add: env ## Make an API key, shown once: make key-add NAME=ci SCOPES=mail,tasks BUDGET="60/minute; 1000/day"
	@key_action=add mk/hosts.sh api_key "$(NAMED_INVENTORY)" $(ARGS)
key-list: env ## List the API keys
	@key_action=list mk/hosts.sh api_key "$(NAMED_INVENTORY)" $(ARGS)
key-revoke: env ## Revoke an API key, at once: make key-revoke KEY=ci
	@key_action=revoke mk/hosts.sh api_key "$(NAMED_INVENTORY)" $(ARGS)
backup: env ## Save records, queued mail, secrets and more into backups/
	@mk/hosts.sh backup "$(NAMED_INVENTORY)" $(ARGS)
restore: export restore_from = $(FROM)
restore: env ## Bring a backup back, also on fresh hosts: make restore INVENTORY=new.ini FROM=backups/old/20260102T030405Z.tar
	@mk/hosts.sh restore "$(NAMED_INVENTORY)" $(ARGS)
remove: env ## Take everything away that the playbook has brought, asks first: make remove INVENTORY=old.ini
	@mk/hosts.sh remove "$(NAMED_INVENTORY)" $(ARGS)

##@ Hosts at AWS, for make deploy INVENTORY=inventories/aws_ec2.yml; docs/aws.md
.PHONY: provision-aws deprovision-aws
provision-aws: env ## Make network, security groups, key and hosts: make provision-aws ARGS="-e aws_operator_cidr=203.0.113.7/32"
	@ansible-playbook --inventory localhost, playbooks/provision_aws.yml $(ARGS)
deprovision-aws: env ## Take all of that away, and nothing else; asks first
	@ansible-playbook --inventory localhost, playbooks/deprovision_aws.yml $(ARGS)

##@ Tests
.PHONY: test test-all test-fast lint unit molecule-default molecule-ssh molecule-public molecule-cluster molecule-grow molecule-keep molecule-ubuntu loss format
test: env engine ssh-client film ## What CI runs: lint, unit tests, and whole hosts, with the faults that find most
	@LOSS_ROWS=often mk/test.sh unit molecule-public molecule-cluster + lint molecule-default molecule-ssh molecule-loss
test-all: env engine ssh-client film ## Every scenario and every fault: over an hour
	@mk/test.sh unit molecule-public molecule-cluster molecule-grow molecule-ubuntu + lint molecule-default molecule-ssh molecule-loss molecule-keep
test-fast: env ## Only what takes seconds: lint and unit tests
	@mk/test.sh lint unit
lint: env ## ruff, mypy --strict, yamllint, shellcheck, ansible-lint (production)
	@mk/lint.sh
unit: env ## Unit tests of the application and of the templates
	@mk/test.sh unit
molecule-default: env engine ## One host each on Debian 12 and 13
	@mk/test.sh molecule-default
molecule-ssh: env engine ssh-client chromium ## Over SSH as a sudo user, then API, browser, deploy and fault tests
	@mk/test.sh molecule-ssh
molecule-public: env engine film ## The public address, with stand-ins for ngrok and the internet
	@mk/test.sh molecule-public
molecule-cluster: env engine ## Seven hosts as one system, and hosts that go away: make molecule-cluster N=2000
	@LOSS_N="$(N)" LOSS_ROWS="$(ROWS)" mk/test.sh molecule-cluster
molecule-grow: env engine ## One host becomes several, and fewer again, with mail in its queues
	@mk/test.sh molecule-grow
molecule-keep: env engine ## Back up, restore on a fresh host, remove
	@mk/test.sh molecule-keep
molecule-ubuntu: env engine ## One host each on Ubuntu 24.04 and 26.04, where a container registry has their images
	@mk/test.sh molecule-ubuntu
loss: env engine ## Every fault under load, and what became of each mail: make loss N=10000 ROWS="broker kill,SMTP 451"
	@LOSS_N="$(N)" LOSS_ROWS="$(ROWS)" mk/test.sh molecule-loss
format: env ## Format the Python code
	@ruff format . && ruff check --fix .

##@ Measure it
.PHONY: bench
bench: env engine ## Against the tutorial's code, over an hour; or a look: make bench ROUNDS=1 SECONDS=2 ONLY=accept,mails
	@mk/bench.sh "$(ROUNDS)" "$(SECONDS)" "$(ONLY)" $(ARGS)

##@ Show it
.PHONY: walkthrough
walkthrough: env engine film ## Record a film of a fresh sandbox, from make up to a killed worker, into .walkthrough/
	@mk/walkthrough.sh

##@ Upkeep
.PHONY: doctor env engine ssh-client chromium film lock clean
doctor: ## What is missing on this machine, and how to get it
	@mk/doctor.sh
env: .venv/.complete ## Make or refresh .venv, the controller's Python environment
engine: ## Make sure that Docker Engine runs
	@mk/engine.sh
ssh-client:
	@mk/package.sh ssh openssh-client
chromium:
	@mk/package.sh chromium chromium
film:
	@mk/package.sh chromium chromium ffmpeg ffmpeg curl curl
lock: env ## Compile requirements.txt and app/requirements.txt from the .in files
	@mk/lock.sh
clean: down ## Remove the sandbox, .venv and test results
	@rm -rf .venv .cache .test-results

.venv/.complete: requirements.txt
	@mk/venv.sh >&2
