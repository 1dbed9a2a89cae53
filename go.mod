module github.com/keystead/keystead

go 1.26.0

require (
	connectrpc.com/connect v1.21.1
	github.com/fxamacker/cbor/v2 v2.10.0
	github.com/pelletier/go-toml/v2 v2.4.3
	github.com/transparency-dev/merkle v0.0.2
	golang.org/x/mod v0.42.0
	google.golang.org/protobuf v1.36.12
)

require github.com/x448/float16 v0.8.4 // indirect
