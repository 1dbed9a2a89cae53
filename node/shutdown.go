package node

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/replica"
)

// shutdownRecord is what the file holds.
type shutdownRecord struct {
	count uint64 // of the TPM's counter
	state replica.SealRecord
	cert  *tpm2.Certification
}

const (
	shutdownKind = "keystead-shutdown/1\n"
	maxShutdown  = 4 << 10 // bytes
)

// text is what the TPM certifies.
func (r *shutdownRecord) text() []byte {
	b := []byte(shutdownKind)
	for _, n := range []uint64{r.count, r.state.ID, r.state.Start, r.state.Term, r.state.Vote, r.state.Last, r.state.Applied} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func (r *shutdownRecord) binding() evidence.Binding {
	sum := sha256.Sum256(r.text())
	return evidence.Binding{Purpose: evidence.PurposeShutdown, Nonce: sum[:]}
}

func (r *shutdownRecord) encode() []byte { return append(r.text(), r.cert.Bytes()...) }

// parseShutdown fails with a *keystead.FormatError.
func parseShutdown(b []byte) (*shutdownRecord, error) {
	c := cursor.New("shutdown", binary.BigEndian, b)
	if len(b) > maxShutdown {
		c.Fail("whole", "is more than %d bytes long", maxShutdown)
	}
	if !bytes.Equal(c.Bytes(len(shutdownKind), "kind"), []byte(shutdownKind)) {
		c.Fail("kind", "is not %q", shutdownKind)
	}
	r := &shutdownRecord{count: c.U64("counter")}
	r.state = replica.SealRecord{ID: c.U64("id"), Start: c.U64("start"), Term: c.U64("term"), Vote: c.U64("vote"), Last: c.U64("last"), Applied: c.U64("applied")}
	if c.Err() != nil {
		return nil, c.Err()
	}
	var err error
	r.cert, err = tpm2.ParseCertification(c.Rest())
	return r, err
}
