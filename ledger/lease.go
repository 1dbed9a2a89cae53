package ledger

import (
	"encoding/binary"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/receipt"
)

var _ admit.State = View{}

// Clock returns the domain clock in Unix milliseconds; 0 before the genesis entry.
func (v View) Clock() (uint64, error) {
	s, err := v.Status()
	return s.Clock, err
}

// Founding returns a setting of the genesis entry, or "".
func (v View) Founding(setting string) (string, error) {
	s, err := v.Status()
	if err != nil || s.Size == 0 {
		return "", err
	}
	b, err := v.Entry(0)
	if err != nil {
		return "", err
	}
	g, err := receipt.ParseGenesis(b)
	return g.Setting(setting), err
}

// Renewal returns the last renewal that took effect for a host; a zero one if there
// was none. It counts for the lease of the version that it names only.
func (v View) Renewal(host string) (admit.Renewal, error) {
	b, found, err := v.r.Get(nameKey(spaceRenewal, host))
	if err != nil || !found {
		return admit.Renewal{}, err
	}
	return decodeRenewal(b)
}

// Suspension returns the last suspension that took effect for a host; a zero one if
// there was none. It counts for the lease of the version that it names only.
func (v View) Suspension(host string) (admit.Suspension, error) {
	b, found, err := v.r.Get(nameKey(spaceSuspension, host))
	if err != nil || !found {
		return admit.Suspension{}, err
	}
	return decodeSuspension(b)
}

// JudgedKeys visits the judged keys that start with prefix and come after the key
// after ("" for from the start), in order.
func (v View) JudgedKeys(prefix, after string, visit func(key string, value Value) bool) error {
	return v.keys(spaceJudged, prefix, after, visit)
}

func appendRenewal(b []byte, r *admit.Renewal) []byte {
	b = binary.BigEndian.AppendUint32(appendEarlyRenewal(b, r), r.Restarts)
	resumed := byte(0)
	if r.Resumed {
		resumed = 1
	}
	return append(binary.BigEndian.AppendUint64(b, r.Clock), resumed)
}

// appendEarlyRenewal leaves out what the TPM's clock was.
func appendEarlyRenewal(b []byte, r *admit.Renewal) []byte {
	for _, n := range [...]uint64{r.Lease, r.Issued, r.Until} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return append(b, r.Verdict[:]...)
}

func readRenewal(c *cursor.Cursor, early bool) admit.Renewal {
	r := admit.Renewal{Lease: c.U64("lease"), Issued: c.U64("issued"), Until: c.U64("until"), Verdict: digest(c, "verdict")}
	if early {
		return r
	}
	r.Restarts, r.Clock = c.U32("restarts"), c.U64("clock")
	resumed := c.U8("resumed")
	if resumed > 1 {
		c.Fail("resumed", "is %d, want 0 or 1", resumed)
	}
	r.Resumed = resumed == 1
	return r
}

// earlyRenewal is the size of a record that a build of before wrote.
const earlyRenewal = 3*8 + len(keystead.Digest{})

func decodeRenewal(b []byte) (admit.Renewal, error) {
	c := record("renewal record", b)
	r := readRenewal(c, len(b) == earlyRenewal)
	c.End()
	return r, c.Err()
}

func encodeSuspension(s *admit.Suspension) []byte {
	b := binary.BigEndian.AppendUint64(nil, s.Lease)
	b = cursor.AppendSized16(cursor.AppendSized16(b, s.Node), s.Reason)
	return binary.BigEndian.AppendUint64(append(b, s.Verdict[:]...), s.Time)
}

func decodeSuspension(b []byte) (admit.Suspension, error) {
	c := record("suspension record", b)
	s := admit.Suspension{Lease: c.U64("lease"), Node: string(name(c, "node")), Reason: string(c.Sized16(maxReason, "reason")),
		Verdict: digest(c, "verdict"), Time: c.U64("time")}
	c.End()
	return s, c.Err()
}
