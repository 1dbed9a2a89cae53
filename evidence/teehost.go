package evidence

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/keystead/keystead"
)

// A TEEHost is a host whose evidence is that of a trusted execution environment alone.
// One machine has many guests, so the host's own key, which its evidence binds, tells it
// from the others. The zero value is no such host.
type TEEHost struct {
	Kind    string          // KindSNP, KindTDX or KindNitro: an enclave of SGX is no host
	Machine string          // the claim tee.machine: CHIP_ID or PPID in hex, or Nitro's module id
	Key     keystead.Digest // of the host's public key, PKIX DER
}

// maxMachine bounds the name of a machine, in bytes.
const maxMachine = 256

// IsZero reports whether it is no such host.
func (h TEEHost) IsZero() bool { return h == TEEHost{} }

// Check returns what keeps it from being a host's: a kind that has none, no machine, or
// one that is not printable ASCII without spaces.
func (h TEEHost) Check() error {
	switch {
	case h.Kind != KindSNP && h.Kind != KindTDX && h.Kind != KindNitro:
		return fmt.Errorf("kind is %.40q, want %s, %s or %s", h.Kind, KindSNP, KindTDX, KindNitro)
	case h.Machine == "" || len(h.Machine) > maxMachine || strings.ContainsFunc(h.Machine, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("machine is %.80q, want 1 to %d printable characters of ASCII", h.Machine, maxMachine)
	case h.Key.IsZero():
		return fmt.Errorf("key is all zeroes, which names nothing")
	}
	return nil
}

// Identity is the hardware identity: SHA-256 over a label and the length-prefixed fields
// (docs/spec/statements.md). It takes the place of an endorsement key's fingerprint, which
// is a digest of a public key: no bytes are both.
func (h TEEHost) Identity() keystead.Digest {
	return labelled("keystead/tee-identity/1", []byte(h.Kind), []byte(h.Machine), h.Key[:])
}

// Guest names what must stay while a guest of a TEE keeps its lease: kind, measurement of
// the launch, registers, and what is new at each launch: REPORT_ID of SEV-SNP; nil of a
// kind that has nothing of the sort.
func (c *TEEClaims) Guest(launch []byte) keystead.Digest {
	fields := [][]byte{[]byte(c.Kind), []byte(c.Launch), launch}
	for _, r := range c.Registers {
		fields = append(fields, []byte(r))
	}
	return labelled("keystead/tee-guest/1", fields...)
}

func labelled(label string, fields ...[]byte) (d keystead.Digest) {
	h := sha256.New()
	h.Write([]byte(label + "\x00"))
	for _, field := range fields {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(field))))
		h.Write(field)
	}
	h.Sum(d[:0])
	return d
}
