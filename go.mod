module github.com/keystead/keystead

go 1.26.0

require github.com/fxamacker/cbor/v2 v2.10.0

require (
	github.com/ProtonMail/go-crypto v1.5.2 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/x448/float16 v0.8.4 // indirect
	golang.org/x/mod v0.42.0 // indirect
)
