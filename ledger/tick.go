package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Window is how long a nonce, an open proposal and a request's deadline last on
// the domain clock, in milliseconds.
const Window = 30_000

// SignedTick is one node's statement of the time, with a value nobody could foresee.
type SignedTick struct {
	Time   uint64 // Unix milliseconds by the node's clock
	Random [32]byte
	Signed
}

// NewTick signs a tick as the node of that name.
func NewTick(k *key.Node, node string, domain keystead.Digest, time uint64, random [32]byte) SignedTick {
	t := SignedTick{Time: time, Random: random, Signed: Signed{Node: node}}
	t.Signature = k.Sign(t.message(domain))
	return t
}

// Verify checks that the key signed the tick, for the domain.
func (t *SignedTick) Verify(k key.NodePublic, domain keystead.Digest) error {
	if !k.Verify(t.message(domain), t.Signature) {
		return deny(keystead.ReasonSignatureInvalid, "tick", "a signature by "+t.Node, "another")
	}
	return nil
}

func (t *SignedTick) message(domain keystead.Digest) []byte {
	b := append([]byte("keystead tick/1\n"), domain[:]...)
	return append(binary.BigEndian.AppendUint64(b, t.Time), t.Random[:]...)
}

// TickEntry returns the entry of the ticks, which are of at least a majority of nodes.
func TickEntry(ticks []SignedTick) ([]byte, error) {
	b := binary.BigEndian.AppendUint16(receipt.Header(receipt.KindTick), uint16(len(ticks)))
	for _, t := range ticks {
		b = append(binary.BigEndian.AppendUint64(b, t.Time), t.Random[:]...)
		b = appendSigned(b, t.Signed)
	}
	_, err := ParseTicks(b)
	return b, err
}

// ParseTicks reads a tick entry; it checks no signature.
func ParseTicks(entry []byte) (ticks []SignedTick, err error) {
	b, err := body(entry, receipt.KindTick)
	if err != nil {
		return nil, err
	}
	c := record("tick", b)
	for range count(c, "ticks", maxSigned) {
		if c.Err() != nil {
			break
		}
		t := SignedTick{Time: c.U64("time")}
		copy(t.Random[:], c.Bytes(len(t.Random), "random"))
		t.Signed = readSigned(c)
		ticks = append(ticks, t)
	}
	c.End()
	return ticks, c.Err()
}

// Nonce returns the nonce that the tick entry at a log index gives: nobody knows it
// before a majority's random values are in one entry.
func Nonce(domain keystead.Digest, index uint64, entry []byte) keystead.Digest {
	h := sha256.New()
	h.Write([]byte("keystead nonce/1\n"))
	h.Write(domain[:])
	h.Write(binary.BigEndian.AppendUint64(nil, index))
	h.Write(entry)
	return keystead.Digest(h.Sum(nil))
}

// reached returns the latest time that a majority of n nodes has reached by their
// last ticks: the lower median of all n, where a node without a tick is at 0. So
// a minority alone can not move the clock ahead, whatever the leader leaves out.
func reached(last []uint64, n int) uint64 {
	slices.SortFunc(last, func(a, b uint64) int { return cmp.Compare(b, a) })
	if q := receipt.Majority(n); len(last) >= q {
		return last[q-1]
	}
	return 0
}

// Watch compares the domain clock's progress with that of the node's own
// CLOCK_BOOTTIME. The zero value is stale. Start it once the node has caught up
// with the log, and again whenever it has fallen behind and caught up anew.
type Watch struct {
	domain, boot uint64 // milliseconds at the start
	latest       uint64 // domain clock last seen
	running      bool
}

const (
	maxLag     = 2000   // milliseconds that the two clocks may be apart
	driftParts = 10_000 // and one part in this many of the time since the start: 100 ppm, what oscillators do
)

// Start takes both clocks' readings, in milliseconds, as the point to compare from.
func (w *Watch) Start(domain, boot uint64) { *w = Watch{domain, boot, domain, true} }

// Observe takes the domain clock of an applied tick.
func (w *Watch) Observe(domain uint64) { w.latest = max(w.latest, domain) }

// Check refuses with clock-stale when, at boot milliseconds of the node's own
// clock, the domain clock is more than 2 s behind or ahead of its pace.
func (w *Watch) Check(boot uint64) error {
	if !w.running || boot < w.boot {
		return deny(keystead.ReasonClockStale, "domain clock", "a clock that was compared with the node's own", "none yet")
	}
	own, domain := int64(boot-w.boot), int64(w.latest-w.domain)
	if limit := maxLag + own/driftParts; own-domain > limit || domain-own > limit {
		return deny(keystead.ReasonClockStale, "domain clock", "progress within "+millis(limit)+" of this node's "+millis(own), millis(domain))
	}
	return nil
}
