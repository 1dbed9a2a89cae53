package node

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// applicationVersion opens the content of a proposal of type lease. It only ever grows:
//
//	1  bundle, tick, attestation key
const applicationVersion = 1

// application is what a node proposes to the others when a host asks to be admitted
// (docs/spec/lease.md). The host is the proposal's subject.
type application struct {
	bundle keystead.Digest // the evidence, which the proposing node hands over
	tick   uint64          // log index of the tick entry whose nonce it answers
	ak     keystead.Digest // of the attestation key's TPM name
}

func (a *application) bytes() []byte {
	b := append([]byte{applicationVersion}, a.bundle[:]...)
	return append(binary.BigEndian.AppendUint64(b, a.tick), a.ak[:]...)
}

func parseApplication(b []byte) (a application, err error) {
	c := cursor.New("application", binary.BigEndian, b)
	if v := c.U8("version"); v != applicationVersion {
		c.Fail("version", "%d; this build knows %d", v, applicationVersion)
	}
	copy(a.bundle[:], c.Bytes(len(a.bundle), "bundle"))
	a.tick = c.U64("tick")
	copy(a.ak[:], c.Bytes(len(a.ak), "attestation key"))
	c.End()
	if c.Err() != nil {
		return application{}, c.Err()
	}
	return a, nil
}
