module github.com/keystead/keystead

go 1.26.0

require (
	github.com/ProtonMail/go-crypto v1.5.2
	github.com/fxamacker/cbor/v2 v2.10.0
	github.com/google/go-tpm-tools v0.4.10
	github.com/klauspost/compress v1.20.3
	github.com/mikelolasagasti/xz v1.0.1
	github.com/pierrec/lz4/v4 v4.1.33
	golang.org/x/mod v0.42.0
	google.golang.org/protobuf v1.36.12
)

require github.com/google/go-sev-guest v0.14.0 // indirect

require (
	github.com/GoogleCloudPlatform/confidential-space/server v0.0.0-20260915221818-a6c0685fb9fc // indirect
	github.com/cloudflare/circl v1.6.3 // indirect
	github.com/google/go-tdx-guest v0.3.2-0.20250814004405-ffb0869e6f4d // indirect
	github.com/google/go-tpm v0.9.8
	github.com/x448/float16 v0.8.4 // indirect
	golang.org/x/crypto v0.51.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)
