package keyring

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Types of what nodes judge here. Each owns the judged keys that start with it and "/".
const (
	EpochType   = "epoch"   // subject "current": epoch/current, epoch/NUMBER
	KeyType     = "key"     // subject NAME: key/NAME, the newest version, and key/NAME/VERSION
	KeyspecType = "keyspec" // subject NAME: keyspec/NAME
)

// CurrentEpoch is the subject of proposals of EpochType.
const CurrentEpoch = "current"

// A Value is what a key of the ledger holds; Version is 0 for an absent one.
type Value = admit.Value

// State is the ledger as a node sees it at one moment.
type State interface {
	// Judged returns what a judged key holds, such as "epoch/current".
	Judged(key string) (Value, error)
	// Record returns what a contract's key holds, such as "agreement/node/n1".
	Record(key string) (Value, error)
}

// A Write is a value to put at a key.
type Write struct {
	Key  string
	Data []byte
}

// Standing is the roster in force and its place in the chain.
type Standing struct {
	receipt.Roster
	Sequence uint64
}

// Epoch is the record of an epoch. The zero value is what was before the first.
type Epoch struct {
	Number  uint64
	Round   RoundID
	Opening keystead.Digest // of the round (Opening.ID)
	Tainted uint64          // keys of this epoch and older ones were readable for a node that has left
	Holders []Holder        // by name; all were in the roster
	Confirm keystead.Digest
	Older   []byte // the secret of the epoch before, wrapped under this one's; nil in the first
}

// Holder is a node that holds an epoch's secret. One that was silent when the next
// began holds an older one.
type Holder struct {
	Node    string
	Machine key.AKDigest // of its TPM, if the domain asks for evidence: a name may go to another
	Epoch   uint64       // the newest that it holds
}

// Bytes returns the one encoding.
func (e *Epoch) Bytes() []byte {
	b := binary.BigEndian.AppendUint64(header(kindEpoch), e.Number)
	b = append(append(b, e.Round[:]...), e.Opening[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Tainted)
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.Holders)))
	for _, h := range e.Holders {
		b = append(cursor.AppendSized16(b, h.Node), h.Machine[:]...)
		b = binary.BigEndian.AppendUint64(b, h.Epoch)
	}
	return cursor.AppendSized16(append(b, e.Confirm[:]...), e.Older)
}

// ParseEpoch reads an epoch's record.
func ParseEpoch(b []byte) (e Epoch, err error) {
	c := start("epoch", kindEpoch, b)
	e.Number = c.U64("number")
	copy(e.Round[:], c.Bytes(len(e.Round), "round"))
	e.Opening, e.Tainted = digest(c, "opening"), c.U64("tainted")
	for range count(c, "holders") {
		if c.Err() == nil {
			e.Holders = append(e.Holders, Holder{name(c, "node"), key.AKDigest(digest(c, "machine")), c.U64("holds")})
		}
	}
	e.Confirm = digest(c, "confirm")
	if older := c.Sized16(wrappedSize, "older"); len(older) > 0 {
		e.Older = older
	}
	c.End()
	return e, c.Err()
}

// Version is the record of a version of a key.
type Version struct {
	Name    string
	Number  uint64
	Epoch   uint64 // under whose secret it is wrapped
	Round   RoundID
	Opening keystead.Digest
	Confirm keystead.Digest
	Wrapped []byte
	Public  []byte // half, of a key that has one: version 2 of the record
}

// Bytes returns the one encoding.
func (v *Version) Bytes() []byte {
	h := header(kindVersion)
	if v.Public != nil {
		h[0] = publicVersion
	}
	b := cursor.AppendSized16(h, v.Name)
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, v.Number), v.Epoch)
	b = append(append(append(b, v.Round[:]...), v.Opening[:]...), v.Confirm[:]...)
	b = cursor.AppendSized16(b, v.Wrapped)
	if v.Public != nil {
		b = cursor.AppendSized16(b, v.Public)
	}
	return b
}

// ParseVersion reads the record of a version of a key.
func ParseVersion(b []byte) (v Version, err error) {
	c, format := startUpTo("key version", kindVersion, b, publicVersion)
	v.Name, v.Number, v.Epoch = name(c, "name"), c.U64("number"), c.U64("epoch")
	copy(v.Round[:], c.Bytes(len(v.Round), "round"))
	v.Opening, v.Confirm = digest(c, "opening"), digest(c, "confirm")
	v.Wrapped = c.Sized16(wrappedSize, "wrapped")
	if format == publicVersion {
		if v.Public = c.Sized16(maxPublic, "public half"); c.Err() == nil && len(v.Public) == 0 {
			c.Fail("public half", "is empty")
		}
	}
	c.End()
	return v, c.Err()
}

// Current returns the epoch of now; the zero Epoch before the first.
func Current(st State) (Epoch, error) { return epochAt(st, CurrentEpoch) }

func epochAt(st State, at string) (Epoch, error) {
	v, err := st.Judged(EpochType + "/" + at)
	if err != nil || v.Version == 0 {
		return Epoch{}, err
	}
	return ParseEpoch(v.Data)
}

// Newest returns the newest version of a key; Number 0 if it has none.
func Newest(st State, name string) (Version, error) {
	v, _, err := versionAt(st, KeyType+"/"+name)
	return v, err
}

// At returns a version of a key, and the version of its record on the ledger: its leaf
// plus one. Both are 0 if there is none.
func At(st State, name string, number uint64) (v Version, record uint64, err error) {
	return versionAt(st, versionKey(name, number))
}

func versionAt(st State, at string) (v Version, record uint64, err error) {
	x, err := st.Judged(at)
	if err != nil || x.Version == 0 {
		return Version{}, 0, err
	}
	v, err = ParseVersion(x.Data)
	return v, x.Version, err
}

func versionKey(name string, number uint64) string {
	return KeyType + "/" + name + "/" + strconv.FormatUint(number, 10)
}

// SpecOf returns the specification of a key; Version 0 if there is none.
func SpecOf(st State, name string) (Spec, error) {
	v, err := st.Judged(KeyspecType + "/" + name)
	if err != nil || v.Version == 0 {
		return Spec{}, err
	}
	return readSpec(v.Data)
}

// Nodes returns who contributed, and so holds the epoch's own secret, by name.
func (e *Epoch) Nodes() (out []string) {
	for _, h := range e.Holders {
		if h.Epoch == e.Number {
			out = append(out, h.Node)
		}
	}
	return out
}

// in reports whether the holder is in the roster, as the machine that it was.
func (h *Holder) in(r *receipt.Roster) bool {
	n, in := r.Node(h.Node)
	return in && n.AK == h.Machine
}

// gone returns the holders that are not in the roster.
func (e *Epoch) gone(r *receipt.Roster) (out []string) {
	for _, h := range e.Holders {
		if !h.in(r) {
			out = append(out, h.Node)
		}
	}
	return out
}

// follows returns the epoch after e as far as it follows from the state: without its
// confirmation and what is wrapped.
func (e *Epoch) follows(o *Opening, id keystead.Digest, r *receipt.Roster) Epoch {
	next := Epoch{Number: e.Number + 1, Round: o.Round, Opening: id, Tainted: e.Tainted}
	for _, h := range e.Holders {
		if !h.in(r) {
			next.Tainted = max(next.Tainted, h.Epoch)
		} else if o.contributor(h.Node) < 0 {
			next.Holders = append(next.Holders, h)
		}
	}
	for _, name := range o.names() {
		n, _ := r.Node(name) // fits has found it
		next.Holders = append(next.Holders, Holder{name, n.AK, next.Number})
	}
	slices.SortFunc(next.Holders, func(a, b Holder) int { return strings.Compare(a.Node, b.Node) })
	return next
}

// due returns the version that a key is to get next in the epoch, or 0: because its
// specification wants it, or because a node that has left could read the newest.
func due(st State, e *Epoch, name string) (uint64, error) {
	spec, err := SpecOf(st, name)
	if err != nil || spec.Version == 0 {
		return 0, err
	}
	newest, err := Newest(st, name)
	if err != nil {
		return 0, err
	}
	if newest.Number < spec.Version || newest.Epoch <= e.Tainted {
		return newest.Number + 1, nil
	}
	return 0, nil
}

// fits refuses a purpose and nodes that the state does not ask for.
func fits(st State, at *Standing, o *Opening) error {
	unfit := func(want, got string) error { return deny(keystead.ReasonRoundUnfit, o.Purpose.String(), want, got) }
	if o.Roster != at.Sequence {
		return unfit(fmt.Sprintf("roster %d", at.Sequence), fmt.Sprintf("roster %d", o.Roster))
	}
	for _, n := range o.Nodes {
		if _, in := at.Node(n.Node); !in {
			return deny(keystead.ReasonNotMember, o.Purpose.String(), "nodes of the roster", n.Node)
		}
	}
	if len(o.Nodes) < at.Majority() {
		return deny(keystead.ReasonMajorityMissing, o.Purpose.String(), fmt.Sprintf("%d of %d nodes to contribute", at.Majority(), len(at.Nodes)), strconv.Itoa(len(o.Nodes)))
	}
	now, err := Current(st)
	if err != nil {
		return err
	}
	if o.Epoch != now.Number {
		return unfit(fmt.Sprintf("epoch %d to be in use", now.Number), strconv.FormatUint(o.Epoch, 10))
	}
	if o.Purpose.IsEpoch() {
		if o.Purpose.Number != now.Number+1 {
			return unfit(EpochPurpose(now.Number+1).String(), o.Purpose.String())
		}
		return nil
	}
	return fitsKey(st, at, o, &now)
}

func fitsKey(st State, at *Standing, o *Opening, now *Epoch) error {
	if gone := now.gone(&at.Roster); now.Number == 0 || len(gone) > 0 {
		return deny(keystead.ReasonRoundUnfit, o.Purpose.String(), "an epoch of nodes of the roster", fmt.Sprintf("epoch %d, of which %v have left", now.Number, gone))
	}
	for _, n := range o.Nodes {
		if !slices.Contains(now.Nodes(), n.Node) {
			return deny(keystead.ReasonNotMember, o.Purpose.String(), fmt.Sprintf("nodes of epoch %d", now.Number), n.Node)
		}
	}
	want, err := due(st, now, o.Purpose.Key)
	if err != nil {
		return err
	}
	if want != o.Purpose.Number {
		got := "none wanted"
		if want > 0 {
			got = KeyPurpose(o.Purpose.Key, want).String() + " wanted"
		}
		return deny(keystead.ReasonRoundUnfit, o.Purpose.String(), "a version that is wanted", got)
	}
	return nil
}
