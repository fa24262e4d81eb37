# Istio's ceremony with Istio's words, made by the program `certs`. Lines that begin with ## are the help.
#
# Of what Istio's Makefile leaves behind, root-ca.conf, root-cert.csr and their like for intermediates are not
# made: `certs` needs no requests and no configuration. Nor is there a Makefile for a root kept in Kubernetes.
#
# Values reach the shell through the environment only, so that quotes and spaces in them mean nothing. A
# NAME that is there already is kept, whatever is newer than what: a key is never made a second time.

## make -f Makefile.selfsigned.mk TARGET [VARIABLE=VALUE …]
##
## Everything is written below the current folder. What is there is kept, never overwritten.
##
##   root-ca           root-cert.pem and root-key.pem: the root, which signs everything else here
##   NAME-cacerts      NAME/ca-cert.pem, ca-key.pem, cert-chain.pem and root-cert.pem: an intermediate for the
##                     cluster NAME, which the CA loads; makes the root if there is none
##   NAMESPACE-certs   NAMESPACE/key.pem, workload-cert.pem, workload-cert-chain.pem and root-cert.pem: a
##                     machine's certificate, signed by the root; makes the root if there is none
##   clean             removes what these targets made in the current folder, KEYS TOO: the files named in
##                     .selfsigned-made, and folders that are empty then. Nothing else.
##   help              this text
##
##   ROOTCA_DAYS, INTERMEDIATE_DAYS     lifetimes in days: 3650; an intermediate ends with its root
##   ROOTCA_KEYSZ, INTERMEDIATE_KEYSZ   2048, 3072 or 4096: an RSA key of so many bits; P-256 if not set. RSA
##                                      costs an intermediate most of its speed.
##   ROOTCA_ORG, INTERMEDIATE_ORG       organizations: Istio
##   ROOTCA_CN                          common name: Root CA
##   INTERMEDIATE_CN                    common name: Intermediate CA
##   INTERMEDIATE_SAN_DNS               DNS name in the intermediate: istiod.istio-system.svc; empty for none
##   WORKLOAD_DAYS                      lifetime of a machine's certificate in days: 1; 90 at most
##   SERVICE_ACCOUNT, TRUST_DOMAIN      of a machine's SPIFFE ID: default, cluster.local
##   WORKLOAD_CN                        not used: a SPIFFE certificate here has no subject
##   CERTS                              the program: certs from PATH, or else from this repository's build

export ROOTCA_DAYS ?= 3650
export ROOTCA_KEYSZ ?=
export ROOTCA_ORG ?= Istio
export ROOTCA_CN ?= Root CA
export INTERMEDIATE_DAYS ?= 3650
export INTERMEDIATE_KEYSZ ?=
export INTERMEDIATE_ORG ?= Istio
export INTERMEDIATE_CN ?= Intermediate CA
export INTERMEDIATE_SAN_DNS ?= istiod.istio-system.svc
export WORKLOAD_DAYS ?= 1
export WORKLOAD_CN ?=
export SERVICE_ACCOUNT ?= default
export TRUST_DOMAIN ?= cluster.local
export CERTS ?= certs

# This file, for the shell, because make's own functions split a path at its spaces. Older makes begin the
# list of makefiles with one.
export SELFSIGNED_MK := $(MAKEFILE_LIST)
hash := \#
this = "$${SELFSIGNED_MK$(hash) }"

.SUFFIXES:
.PHONY: help root-ca clean FORCE
.SECONDEXPANSION:
# Make deletes the target of a recipe that is interrupted. This one may have a key that fits it.
.PRECIOUS: root-cert.pem

help:
	@sed -n 's/^## \{0,1\}//p' $(this)

# What recipes share. $$name is the folder: whatever stands before the target's last dash.
name = name='$(subst ','\'',$*)';
say = say() { printf '%s\n' "$$*"; };
prelude = set -eu; $(say) \
	fail() { say "Makefile.selfsigned.mk: $$*" >&2; exit 1; }; \
	days() { case $$2 in '' | *[!0-9]*) fail "$$1: expected a number of days, found '$$2'" ;; esac; }; \
	key() { \
		case $$2 in \
		'') say p256 ;; \
		2048 | 3072 | 4096) say "rsa$$2" ;; \
		*) fail "$$1: expected 2048, 3072 or 4096 for an RSA key, or nothing for P-256; found '$$2'" ;; \
		esac; \
	}; \
	there() { for file; do [ -e "$$name/$$file" ] || return 1; done; }; \
	made() { printf '%s\n' "$$@" >>.selfsigned-made; }; \
	certs=$$CERTS; top=$$(dirname $(this))/..; \
	if [ "$$certs" = certs ] && ! command -v certs >/dev/null; then \
		for certs in "$$top/target/fast/certs" "$$top/target/release/certs"; do [ ! -x "$$certs" ] || break; done; \
	fi; \
	command -v "$$certs" >/dev/null || fail "the program '$$CERTS' is not there; build it with" \
		"'cargo build --locked --profile fast --bin certs' and put it in PATH, or say where it is: CERTS=…";

# Asked before anything is made, so that the message is about what was there.
root_was_there := $(wildcard root-cert.pem)

root-ca: root-cert.pem
	@$(if $(root_was_there),echo 'root-cert.pem is there already: kept',:)

root-cert.pem:
	@$(prelude) \
	days ROOTCA_DAYS "$$ROOTCA_DAYS"; \
	key=$$(key ROOTCA_KEYSZ "$$ROOTCA_KEYSZ"); \
	"$$certs" root-ca --layout root --out . --key "$$key" --lifetime "$${ROOTCA_DAYS}d" \
		--organization="$$ROOTCA_ORG" --common-name="$$ROOTCA_CN"; \
	made root-key.pem root-cert.pem

# The root is asked for where there is something to sign, and its age is no reason to sign again.
%-cacerts: FORCE | $$(if $$(wildcard $$*/ca-key.pem),,root-cert.pem)
	@$(prelude) $(name) \
	if there ca-cert.pem ca-key.pem cert-chain.pem root-cert.pem; then \
		say "$$name has its four files already: kept"; \
		[ ! -e root-cert.pem ] || cmp -s root-cert.pem "$$name/root-cert.pem" || \
			say "note: the root in $$name is not the one in this folder"; \
		exit 0; \
	fi; \
	days INTERMEDIATE_DAYS "$$INTERMEDIATE_DAYS"; \
	key=$$(key INTERMEDIATE_KEYSZ "$$INTERMEDIATE_KEYSZ"); \
	"$$certs" intermediate --root . --out="$$name" --name="$${name##*/}" --key "$$key" \
		--lifetime "$${INTERMEDIATE_DAYS}d" --organization="$$INTERMEDIATE_ORG" \
		--common-name="$$INTERMEDIATE_CN" $${INTERMEDIATE_SAN_DNS:+--san-dns="$$INTERMEDIATE_SAN_DNS"}; \
	made "$$name/ca-cert.pem" "$$name/ca-key.pem" "$$name/cert-chain.pem" "$$name/root-cert.pem"

%-certs: FORCE | $$(if $$(wildcard $$*/key.pem),,root-cert.pem)
	@$(prelude) $(name) \
	[ -z "$$WORKLOAD_CN" ] || say "note: WORKLOAD_CN is not used: a SPIFFE certificate here has no subject"; \
	if there key.pem workload-cert.pem workload-cert-chain.pem root-cert.pem; then \
		say "$$name has its four files already: kept; for new ones remove" \
			"$$name/key.pem, $$name/workload-cert.pem and $$name/workload-cert-chain.pem"; \
		exit 0; \
	fi; \
	days WORKLOAD_DAYS "$$WORKLOAD_DAYS"; \
	"$$certs" workload --ca . --out="$$name" --trust-domain="$$TRUST_DOMAIN" --namespace="$${name##*/}" \
		--service-account="$$SERVICE_ACCOUNT" --lifetime "$${WORKLOAD_DAYS}d"; \
	made "$$name/key.pem" "$$name/workload-cert.pem" "$$name/workload-cert-chain.pem" "$$name/root-cert.pem"

clean:
	@set -eu; $(say) \
	if [ ! -e .selfsigned-made ]; then say "nothing was made here"; exit 0; fi; \
	while IFS= read -r file; do \
		case $${file##*/} in \
		root-key.pem | root-cert.pem | ca-cert.pem | ca-key.pem | cert-chain.pem | key.pem | \
			workload-cert.pem | workload-cert-chain.pem) ;; \
		*) continue ;; \
		esac; \
		[ ! -e "$$file" ] || { rm -f -- "$$file" && say "removed $$file"; }; \
		folder=$$(dirname -- "$$file"); \
		[ "$$folder" = . ] || rmdir -- "$$folder" 2>/dev/null || :; \
	done <.selfsigned-made; \
	rm -f .selfsigned-made
