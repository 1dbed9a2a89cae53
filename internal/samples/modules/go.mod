// Modules whose test data are samples. Nothing imports them, so this file is not tidied.
module github.com/keystead/keystead/internal/samples/modules

go 1.26.0

require (
	github.com/Microsoft/confidential-sidecar-containers v0.0.0-20250820140128-4814b442cf71
	github.com/anjuna-security/go-nitro-attestation v0.0.0-20250527214750-dc507eadb414
	github.com/oasisprotocol/oasis-core/go v0.2403.0
)
