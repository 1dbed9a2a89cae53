package ledger

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// Bounds of a call's entry, in bytes or items.
const (
	maxMethod   = 64
	maxRoles    = 4 << 10
	maxPayload  = 64 << 10 // input and output, each
	maxEvents   = 64
	maxTopic    = 256
	maxEvent    = 4 << 10
	maxSignedBy = 512
	maxPath     = 16 // so many calls as 2 to that power may share one signature
)

// A Call is a call of a contract that one node, its executor, executed. Every node that applies
// it checks that it follows the contract's call before it, by the code in force, writes the
// contract's own keys, and is the executor's word; none executes it again. Whoever does, later,
// has all that it needs: state and code from the calls and entries before, and the rest from the
// call itself.
type Call struct {
	Request     RequestID
	Contract    string
	Code        uint64          // version of the contract's judged record: the code in force
	Predecessor keystead.Digest // ID of the contract's call before it; zero for the first
	Caller      Caller
	Method      string
	Input       []byte
	Clock       uint64   // of the domain when it was executed, Unix milliseconds
	Seed        [32]byte // of its random values
	Gas         uint64   // that it took
	Output      []byte
	Events      []Event
	Writes      []Write // keys start with the contract's name and "/", ascending, each once

	Executor  string // node
	Path      []Step // from the call's hash to the root that was signed
	Signature key.NodeSignature
}

// A Caller is who called, as its executor knew it.
type Caller struct {
	Kind      string // member, user, host, node, app or anyone
	Name      string // empty of anyone
	Roles     string // the record of it that the contract saw
	Signature []byte // of a signed call; else a session was its proof
}

// An Event is what a call tells.
type Event struct{ Topic, Data []byte }

// A Step is a hash beside the path to a root: left of it, or right.
type Step struct {
	Left bool
	Hash keystead.Digest
}

// body returns the call up to its executor's signature.
func (c *Call) body() []byte {
	b := append(receipt.Header(receipt.KindCall), c.Request.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, c.Request.Deadline)
	b = cursor.AppendSized16(b, c.Contract)
	b = append(binary.BigEndian.AppendUint64(b, c.Code), c.Predecessor[:]...)
	for _, s := range []string{c.Caller.Kind, c.Caller.Name, c.Caller.Roles} {
		b = cursor.AppendSized16(b, s)
	}
	b = cursor.AppendSized16(b, c.Caller.Signature)
	b = cursor.AppendSized16(b, c.Method)
	b = cursor.AppendSized32(b, c.Input)
	b = append(binary.BigEndian.AppendUint64(b, c.Clock), c.Seed[:]...)
	b = cursor.AppendSized32(binary.BigEndian.AppendUint64(b, c.Gas), c.Output)
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.Events)))
	for _, e := range c.Events {
		b = cursor.AppendSized16(cursor.AppendSized16(b, e.Topic), e.Data)
	}
	b = appendWrites(b, c.Writes)
	return cursor.AppendSized16(b, c.Executor)
}

// ID names the call: the leaf hash (RFC 6962) of what stands in its entry before the executor's
// signature, so that the call after it can be executed before either is signed.
func (c *Call) ID() keystead.Digest { return receipt.LeafHash(c.body()) }

// CallContext is the context in which executors sign.
const CallContext = "keystead call/1"

// SignCalls has their executor sign calls that were executed one after the other: one signature
// over the Merkle root (RFC 6962) of all, with the way to it in each. At most 65,536. Sign signs
// in CallContext.
func SignCalls(domain keystead.Digest, calls []*Call, sign func(message []byte) (key.NodeSignature, error)) error {
	level := make([]hash, len(calls))
	for i, c := range calls {
		c.Path = c.Path[:0]
		level[i] = c.ID()
	}
	at := make([]int, len(calls)) // of each call, in the level
	for i := range at {
		at[i] = i
	}
	for len(level) > 1 {
		for i, c := range calls {
			if beside := at[i] ^ 1; beside < len(level) {
				c.Path = append(c.Path, Step{beside < at[i], level[beside]})
			}
			at[i] /= 2
		}
		level = pairUp(level)
	}
	if len(level) == 0 {
		return nil
	}
	signature, err := sign(callMessage(domain, level[0]))
	for _, c := range calls {
		c.Signature = signature
	}
	return err
}

func callMessage(domain, root keystead.Digest) []byte {
	return append(domain[:], root[:]...)
}

// Entry returns the call as an entry (docs/spec/contract.md).
func (c *Call) Entry() ([]byte, error) {
	b := append(c.body(), byte(len(c.Path)))
	for _, s := range c.Path {
		left := byte(0)
		if s.Left {
			left = 1
		}
		b = append(append(b, left), s.Hash[:]...)
	}
	b = append(b, c.Signature[:]...)
	_, err := parseCall(b) // holds what is sent to the bounds of what is received
	return b, err
}

// callView is a checked call that aliases its entry.
type callView struct {
	Call
	writes   writeList
	id, root keystead.Digest
}

// ParseCall reads a call's entry. It checks no signature.
func ParseCall(entry []byte) (Call, error) {
	v, err := parseCall(entry)
	if err != nil {
		return Call{}, err
	}
	v.Writes = v.writes.all()
	return v.Call, nil
}

func parseCall(entry []byte) (v callView, err error) {
	raw, err := body(entry, receipt.KindCall)
	if err != nil {
		return v, err
	}
	c := record("call", raw)
	copy(v.Request.ID[:], c.Bytes(16, "request id"))
	v.Request.Deadline = c.U64("deadline")
	v.Contract = string(name(c, "contract"))
	v.Code, v.Predecessor = c.U64("code"), digest(c, "predecessor")
	v.Caller = Caller{string(name(c, "caller's kind")), string(c.Sized16(maxSubject, "caller")), string(c.Sized16(maxRoles, "caller's roles")), c.Sized16(maxSignedBy, "caller's signature")}
	v.Method = string(c.Sized16(maxMethod, "method"))
	v.Input = c.Sized32(maxPayload, "input")
	v.Clock = c.U64("clock")
	copy(v.Seed[:], c.Bytes(len(v.Seed), "seed"))
	v.Gas, v.Output = c.U64("gas"), c.Sized32(maxPayload, "output")
	for range count(c, "events", maxEvents) {
		if c.Err() == nil {
			v.Events = append(v.Events, Event{c.Sized16(maxTopic, "topic"), c.Sized16(maxEvent, "event")})
		}
	}
	v.writes = readWrites(c)
	v.writes.at += receipt.HeaderSize
	var before []byte
	for w := range v.writes.each {
		if bytes.Compare(before, w.key) >= 0 {
			c.Fail("writes", "%.80q is out of order, or there twice", w.key)
		}
		before = w.key
	}
	v.Executor = string(name(c, "executor"))
	end := c.Offset()
	steps := int(c.U8("path"))
	if steps > maxPath {
		c.Fail("path", "has %d steps, at most %d are accepted", steps, maxPath)
	}
	for i := 0; i < steps && c.Err() == nil; i++ {
		left := c.U8("path")
		if left > 1 {
			c.Fail("path", "has a side %d", left)
		}
		v.Path = append(v.Path, Step{left == 1, digest(c, "path")})
	}
	copy(v.Signature[:], c.Bytes(len(v.Signature), "signature"))
	c.End()
	if c.Err() != nil {
		return callView{}, c.Err()
	}
	v.id = receipt.LeafHash(entry[:receipt.HeaderSize+end])
	v.root = v.id
	for _, s := range v.Path {
		if s.Left {
			v.root = hashChildren(&s.Hash, &v.root)
		} else {
			v.root = hashChildren(&v.root, &s.Hash)
		}
	}
	return v, nil
}

// called is the last call of a contract.
type called struct {
	version uint64 // its leaf plus one
	id      keystead.Digest
}

func (c *called) encode() []byte {
	return append(binary.BigEndian.AppendUint64(nil, c.version), c.id[:]...)
}

func decodeCalled(b []byte) (x called, err error) {
	c := record("last call", b)
	x.version, x.id = c.U64("version"), digest(c, "call")
	c.End()
	return x, c.Err()
}

// callWindow is how old a call may be when it is applied, in milliseconds of the domain clock:
// what was executed before a leader was lost does not come back much later.
const callWindow = 30_000

// codeKey is the judged key of a contract's record, whose version names the code in force.
func codeKey(contract string) string { return "contract/" + contract }

// applyCall takes a call over: it executes nothing.
func (m *Machine) applyCall(entry []byte, w Writer, res *Result) error {
	if err := m.since(5); err != nil {
		return err
	}
	c, err := parseCall(entry)
	if err != nil {
		return err
	}
	if err := m.requests.check(c.Request, m.head.clock); err != nil {
		return err
	}
	if leaf, found := m.requests.find(c.Request); found {
		res.Leaf, res.Repeated = leaf, true
		return nil
	}
	if err := m.follows(&c); err != nil {
		return err
	}
	if err := c.writes.confined([]byte(c.Contract)); err != nil {
		return err
	}
	if err := m.executed(&c); err != nil {
		return err
	}
	if err := m.record(entry, w, res); err != nil {
		return err
	}
	m.requests.add(c.Request, res.Leaf)
	last := called{res.Leaf + 1, c.id}
	m.calls[c.Contract] = last
	if err := w.Set(nameKey(spaceCalled, c.Contract), last.encode()); err != nil {
		return fatal(err)
	}
	return m.write(spaceCall, c.writes, entry, res.Leaf+1, w)
}

// follows holds a call to the state that it says it was executed on.
func (m *Machine) follows(c *callView) error {
	where := "call of " + c.Contract
	code, err := m.version(spaceJudged, []byte(codeKey(c.Contract)))
	if err != nil {
		return err
	}
	switch last := m.calls[c.Contract]; {
	case code == 0:
		return deny(keystead.ReasonContractUnknown, where, "a contract that members took in", "none of that name")
	case c.Code != code:
		return deny(keystead.ReasonCodeChanged, where, "the code in force, version "+strconv.FormatUint(code, 10), strconv.FormatUint(c.Code, 10))
	case c.Predecessor != last.id:
		return deny(keystead.ReasonPredecessorWrong, where, "the call before it, "+last.id.String(), c.Predecessor.String())
	case c.Clock > m.head.clock || c.Clock+callWindow < m.head.clock:
		return deny(keystead.ReasonClockStale, where, "executed within 30 s before "+strconv.FormatUint(m.head.clock, 10), strconv.FormatUint(c.Clock, 10))
	}
	return nil
}

// executed checks the executor's signature. Calls that share one cost one.
func (m *Machine) executed(c *callView) error {
	k, err := m.signer(m.current(), c.Executor, "call of "+c.Contract)
	if err != nil {
		return err
	}
	same := signedRoot{k, c.root, c.Signature}
	if same == m.signedRoot {
		return nil
	}
	if !k.Verify(append([]byte(CallContext+"\n"), callMessage(m.head.domain, c.root)...), c.Signature) {
		return deny(keystead.ReasonSignatureInvalid, "call of "+c.Contract, "a signature by "+c.Executor, "another")
	}
	m.signedRoot = same
	return nil
}

// signedRoot is a signature that was good.
type signedRoot struct {
	by        key.NodePublic
	root      keystead.Digest
	signature key.NodeSignature
}

// Code returns the judged record of a contract: its text, and the version that names it.
func (v View) Code(contract string) (Value, error) { return v.Judged(codeKey(contract)) }

// LastCall returns the ID of a contract's last call, and its leaf plus one; zeroes where there is
// none.
func (v View) LastCall(contract string) (keystead.Digest, uint64, error) {
	b, found, err := v.r.Get(nameKey(spaceCalled, contract))
	if err != nil || !found {
		return keystead.Digest{}, 0, err
	}
	x, err := decodeCalled(b)
	return x.id, x.version, err
}

// CallValue returns what a key holds that calls write, such as "auction/lot/clock".
func (v View) CallValue(key string) (Value, error) { return v.value(spaceCall, key) }

// CallKeys visits the keys that calls write and that start with prefix, after a key, in order.
func (v View) CallKeys(prefix, after string, visit func(key string, value Value) bool) error {
	return v.keys(spaceCall, prefix, after, visit)
}
