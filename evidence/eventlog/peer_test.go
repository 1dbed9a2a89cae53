package eventlog

import (
	_ "github.com/google/go-eventlog/tcg"
	_ "github.com/google/go-tpm-tools/proto/attest"
)
