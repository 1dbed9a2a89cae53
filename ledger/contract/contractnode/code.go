package contractnode

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/contract"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/policy"
)

// code is a contract in force, ready to be called.
type code struct {
	*contract.Code
	name    string
	version uint64 // of its record
	policy  *policy.Policy
}

// codebook keeps contracts that were compiled: the one in force of each name.
type codebook struct {
	mu     sync.Mutex
	engine *contract.Engine
	by     map[string]*code
	ready  map[compiled]*contract.Code
}

// runs returns the engine, which begins with the first contract: a node without any has none.
func (b *codebook) runs(ctx context.Context) (*contract.Engine, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var err error
	if b.engine == nil {
		b.engine, err = contract.NewEngine(context.WithoutCancel(ctx))
	}
	return b.engine, err
}

// A module within bounds is compiled once, by whoever asks first.
type compiled struct {
	module keystead.Digest
	bounds contract.Bounds
}

// maxReady is how many that are in force nowhere yet are kept.
const maxReady = 8

// load compiles a module within bounds, or finds that it does not fit.
func (b *codebook) load(ctx context.Context, module []byte, bounds contract.Bounds) (*contract.Code, error) {
	e, err := b.runs(ctx)
	if err != nil {
		return nil, err
	}
	at := compiled{keystead.Sum(module), bounds}
	b.mu.Lock()
	c := b.ready[at]
	b.mu.Unlock()
	if c != nil {
		return c, nil
	}
	if c, err = e.Load(context.WithoutCancel(ctx), module, bounds); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ready == nil || len(b.ready) == maxReady {
		b.ready = map[compiled]*contract.Code{}
	}
	b.ready[at] = c
	return c, nil
}

// inForce returns a contract as members took it in last.
func (b *codebook) inForce(ctx context.Context, h part.Host, name string) (*code, error) {
	var record ledger.Value
	err := h.State().Snapshot(func(v ledger.View) (err error) { record, err = v.Code(name); return err })
	if err != nil {
		return nil, err
	}
	if record.Version == 0 {
		return nil, deny(keystead.ReasonContractUnknown, fmt.Sprintf("contract %.64q", name), "a contract that members took in", "none of that name")
	}
	b.mu.Lock()
	c := b.by[name]
	b.mu.Unlock()
	if c != nil && c.version == record.Version {
		return c, nil
	}
	s, rules, err := contract.ParseSpec(record.Data)
	if err != nil {
		return nil, err
	}
	module, err := h.Peers().Object(ctx, s.Code, admit.ObjectContract)
	if err != nil {
		return nil, err
	}
	c = &code{name: name, version: record.Version, policy: rules}
	if c.Code, err = b.load(ctx, module, s.Bounds); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.by == nil {
		b.by = map[string]*code{}
	}
	b.by[name] = c // what it replaces is freed with the engine
	return c, nil
}

func (b *codebook) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.engine == nil {
		return nil
	}
	return b.engine.Close(context.Background())
}

// admit finds out who calls, and refuses whom the contract's policy does not let (caller-denied).
func (c *code) admit(v ledger.View, q *contract.Question, signature []byte, members []key.MemberPublic) (contract.Caller, error) {
	who, err := callerOf(v, q, signature, members)
	if err != nil {
		return who, err
	}
	for _, r := range c.policy.Eval(&contract.Claims{Method: q.Method, Caller: contract.CallerClaims(who)}) {
		if !r.OK {
			f := r.Finding()
			return who, deny(keystead.ReasonCallerDenied, "call of "+q.Contract+" "+q.Method, "a caller whom "+f.Where+" of the contract lets: "+f.Want, strings.TrimSpace(who.Kind+" "+who.Name))
		}
	}
	return who, nil
}

// maxSignature bounds the line of a note.
const maxSignature = 512

// callerOf returns who signed a question: a member of the roster, or a user. Without a signature
// it is anyone.
func callerOf(v ledger.View, q *contract.Question, signature []byte, members []key.MemberPublic) (contract.Caller, error) {
	if len(signature) == 0 {
		return contract.Caller{Kind: "anyone"}, nil
	}
	unknown := func(got string) error {
		return deny(keystead.ReasonCallerUnknown, "call of "+q.Contract, "a signature by a member or a user of the domain", got)
	}
	name, _, ok := strings.Cut(strings.TrimPrefix(string(signature), "— "), " ")
	if !ok || len(signature) > maxSignature || bytes.Count(signature, []byte("\n")) != 1 {
		return contract.Caller{}, unknown("bytes that are no line of a signed note")
	}
	x, err := v.Judged(contract.UserType + "/" + name)
	if err != nil {
		return contract.Caller{}, err
	}
	who, by := contract.Caller{Kind: "user", Name: name}, key.MemberPublic{}
	if x.Version != 0 {
		u, err := contract.ParseUser(x.Data)
		if err != nil {
			return contract.Caller{}, err
		}
		who.Roles, by = u.Roles, u.Key
	} else if i := slices.IndexFunc(members, func(m key.MemberPublic) bool { return m.Name() == name }); i >= 0 {
		who.Kind, by = "member", members[i]
	} else {
		return contract.Caller{}, unknown(fmt.Sprintf("one by %.80q", name))
	}
	if err := q.Verify(signature, by); err != nil {
		return contract.Caller{}, unknown(err.Error())
	}
	return who, nil
}

// stored is a contract's own part of the ledger.
type stored struct {
	v    ledger.View
	name string
}

// Get implements contract.State.
func (s stored) Get(key []byte) ([]byte, bool, error) {
	x, err := s.v.CallValue(s.name + "/" + string(key))
	return x.Data, x.Version != 0, err
}

// Scan implements contract.State.
func (s stored) Scan(from, to []byte, each func(key, value []byte) bool) error {
	prefix := s.name + "/"
	if len(from) > 0 {
		x, err := s.v.CallValue(prefix + string(from))
		if err != nil || x.Version != 0 && !each(from, x.Data) {
			return err
		}
	}
	return s.v.CallKeys(prefix, prefix+string(from), func(k string, x ledger.Value) bool {
		k = k[len(prefix):]
		return (len(to) == 0 || k < string(to)) && each([]byte(k), x.Data)
	})
}
