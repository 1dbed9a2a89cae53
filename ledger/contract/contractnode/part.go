package contractnode

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	contractv1 "github.com/keystead/keystead/api/contract/v1"
	"github.com/keystead/keystead/api/contract/v1/contractv1connect"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/ledger/contract"
	"github.com/keystead/keystead/ledger/contract/meter"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// Part answers callers of contracts.
type Part struct {
	host    part.Host
	codes   codebook
	benches benches
	calls   *prometheus.CounterVec
}

// New returns the part.
func New() *Part {
	return &Part{calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "keystead_contract_calls_total", Help: "Calls of contracts that this node executed and the ledger took, by contract."}, []string{"contract"})}
}

// Name implements part.Part.
func (*Part) Name() string { return "contract" }

// Limits of procedures, in bytes of a message.
const (
	asked   = contract.MaxInput + 4<<10
	answers = contract.MaxOutput + 64<<10
	listed  = 1 << 20
)

// Declare implements part.Part.
func (p *Part) Declare(d *part.Declaration) {
	d.Procedures = []part.Procedure{
		part.Unary(contractv1connect.ContractServiceCallProcedure, part.Limits{In: asked, Values: 16, Out: answers, Rate: 100, Flight: 64}, p.call),
		part.Unary(contractv1connect.ContractServiceQueryProcedure, part.Limits{In: asked, Values: 16, Out: answers, Rate: 100, Flight: 2}, p.query),
		part.Unary(contractv1connect.ContractServiceListContractsProcedure, part.Limits{In: 1 << 10, Values: 4, Out: listed, Rate: 20, Flight: 4}, p.list),
		part.Unary(contractv1connect.ContractServiceListUsersProcedure, part.Limits{In: 1 << 10, Values: 4, Out: listed, Rate: 20, Flight: 4}, p.users),
	}
	d.Judges = []part.JudgedType{
		{Type: contract.Type, Statement: key.KindContract, Judge: p.judgeContract},
		{Type: contract.UserType, Statement: key.KindUser, Judge: judgeUser},
	}
	d.Objects = map[string]admit.Reader{admit.ObjectContract: p.readCode}
	d.Proposes = []receipt.Kind{receipt.KindCall}
	d.Signs = []string{ledger.CallContext}
	d.Metrics = []prometheus.Collector{p.calls}
}

// Start implements part.Part.
func (p *Part) Start(_ context.Context, h part.Host) error {
	p.host = h
	return nil
}

// Applied implements part.Part.
func (*Part) Applied(part.Batch) {}

// Close implements part.Part.
func (p *Part) Close() error { return p.codes.close() }

// opened opens a statement that a proposal's members signed, of as many as the roster demands.
func opened(h *part.Hearing, kind key.Kind) ([]byte, error) {
	text, by, err := key.Open(h.Proposal.Content, kind, h.Roster.Members...)
	if err == nil && len(by) < h.Roster.Threshold {
		err = deny(keystead.ReasonThresholdMissing, string(kind), fmt.Sprintf("signatures of %d members", h.Roster.Threshold), strconv.Itoa(len(by)))
	}
	return text, err
}

// about holds a statement to its proposal.
func about(h *part.Hearing, kind key.Kind, domain keystead.Digest, subject string, base uint64) error {
	switch {
	case domain != h.Domain:
		return deny(keystead.ReasonDomainMismatch, string(kind), receipt.Origin(h.Domain), receipt.Origin(domain))
	case subject != h.Proposal.Subject:
		return deny(keystead.ReasonSubjectMismatch, string(kind), h.Proposal.Subject, subject)
	case base != h.Proposal.Base:
		return deny(keystead.ReasonSubjectChanged, string(kind), fmt.Sprintf("base %d", h.Proposal.Base), strconv.FormatUint(base, 10))
	}
	return nil
}

// judgeContract endorses a contract whose code is an endorsed object, and runs within its bounds.
func (p *Part) judgeContract(ctx context.Context, h *part.Hearing, out *ledger.Verdict) error {
	text, err := opened(h, key.KindContract)
	if err != nil {
		return err
	}
	s, _, err := contract.ParseSpec(text)
	if err != nil {
		return err
	}
	if err := about(h, key.KindContract, s.Domain, s.Name, s.Base); err != nil {
		return err
	}
	kind := ""
	err = h.Read(func(v ledger.View) error {
		x, err := v.Judged(admit.TypeObject + "/" + s.Code.String())
		kind = string(x.Data)
		return err
	})
	if err != nil {
		return err
	}
	if kind != admit.ObjectContract {
		return deny(keystead.ReasonObjectUnknown, "contract "+s.Name, "an endorsed object of kind contract", fmt.Sprintf("%v, of kind %q", s.Code, kind))
	}
	module, err := h.Object(ctx, s.Code, admit.ObjectContract)
	if err != nil {
		return err
	}
	if _, err := p.codes.load(ctx, module, s.Bounds); err != nil {
		return err
	}
	out.Content = text
	out.Writes = []ledger.Write{{Key: contract.Type + "/" + s.Name, Value: text}}
	return nil
}

// readCode reports what is wrong with an object that is to be code: that it runs is seen once
// members say within which bounds.
func (*Part) readCode(content []byte) error {
	m, err := meter.Read(content)
	if err == nil {
		_, err = m.Rewrite(meter.Bounds{Pages: contract.MaxPages})
	}
	return err
}

// judgeUser endorses whom members let call.
func judgeUser(_ context.Context, h *part.Hearing, out *ledger.Verdict) error {
	text, err := opened(h, key.KindUser)
	if err != nil {
		return err
	}
	u, err := contract.ParseUser(text)
	if err != nil {
		return err
	}
	if err := about(h, key.KindUser, u.Domain, u.Name, u.Base); err != nil {
		return err
	}
	out.Content = text
	out.Writes = []ledger.Write{{Key: contract.UserType + "/" + u.Name, Value: text, Delete: u.Revoked}}
	if u.Revoked {
		out.Writes[0].Value = nil
	}
	return nil
}

// query executes a call on the newest state, and writes nothing.
func (p *Part) query(ctx context.Context, r *contractv1.QueryRequest) (*contractv1.QueryResponse, error) {
	if err := p.host.State().Current(ctx); err != nil {
		return nil, err
	}
	q := question(r.GetCall(), p.host.Self().Domain)
	code, err := p.codes.inForce(ctx, p.host, q.Contract)
	if err != nil {
		return nil, err
	}
	var out contract.Result
	err = p.host.State().Snapshot(func(v ledger.View) error {
		clock, err := v.Clock()
		if err != nil {
			return err
		}
		caller, err := code.admit(v, &q, r.GetCall().GetSignature(), p.members())
		if err != nil {
			return err
		}
		out, err = code.Call(ctx, &contract.Call{Method: q.Method, Input: q.Input, Caller: caller, Clock: clock}, stored{v, q.Contract})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &contractv1.QueryResponse{Output: out.Output, Gas: uint64(out.Gas), Log: out.Log}, nil
}

func (p *Part) members() []key.MemberPublic {
	roster, _ := p.host.State().Roster()
	return roster.Members
}

func (p *Part) list(ctx context.Context, r *contractv1.ListContractsRequest) (*contractv1.ListContractsResponse, error) {
	out := &contractv1.ListContractsResponse{}
	err := p.host.State().Snapshot(func(v ledger.View) error {
		var failed error
		err := v.JudgedKeys(contract.Type+"/"+r.GetPrefix(), "", func(at string, x ledger.Value) bool {
			name := at[len(contract.Type)+1:]
			c := &contractv1.Contract{Name: name, Version: x.Version, Specification: string(x.Data)}
			if _, c.LastLeaf, failed = v.LastCall(name); failed == nil {
				failed = part.Spend(ctx, proto.Size(c))
			}
			if failed == nil {
				out.Contracts = append(out.Contracts, c)
			}
			return failed == nil
		})
		return errors.Join(err, failed)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func (p *Part) users(ctx context.Context, r *contractv1.ListUsersRequest) (*contractv1.ListUsersResponse, error) {
	out := &contractv1.ListUsersResponse{}
	err := p.host.State().Snapshot(func(v ledger.View) error {
		var failed error
		err := v.JudgedKeys(contract.UserType+"/"+r.GetPrefix(), "", func(_ string, x ledger.Value) bool {
			u, err := contract.ParseUser(x.Data)
			m := &contractv1.User{Name: u.Name, Key: u.Key.String(), Roles: u.Roles}
			if failed = err; err == nil {
				failed = part.Spend(ctx, proto.Size(m))
			}
			if failed == nil {
				out.Users = append(out.Users, m)
			}
			return failed == nil
		})
		return errors.Join(err, failed)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func question(r *contractv1.CallRequest, domain keystead.Digest) contract.Question {
	q := contract.Question{Domain: domain, Deadline: r.GetDeadlineMs(), Contract: r.GetContract(), Method: r.GetMethod(), Input: r.GetInput()}
	copy(q.Request[:], r.GetRequestId())
	return q
}

func deny(reason keystead.Reason, where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: reason, Where: where, Want: want, Got: got})
}
