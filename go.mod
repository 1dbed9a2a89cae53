module github.com/keystead/keystead

go 1.26.0

require (
	github.com/fxamacker/cbor/v2 v2.10.0
	github.com/google/go-tpm v0.9.8
)

require (
	github.com/x448/float16 v0.8.4 // indirect
	golang.org/x/sys v0.8.0 // indirect
)
