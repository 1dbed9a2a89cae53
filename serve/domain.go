package serve

import (
	"context"
	"slices"

	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/receipt"
)

// A Domain is what the handlers show of a domain and hand entries to.
type Domain interface {
	// Chain returns the genesis entry, the roster entries after it, and the
	// contacts of the nodes.
	Chain(ctx context.Context) (entries, contacts [][]byte, err error)
	// Submit hands in a roster change, a proposal or an endorsement, and waits for it
	// to take effect. Contact and evidence are of a node that a change adds.
	Submit(ctx context.Context, entry, contact, evidence []byte) (part.Outcome, error)
	// Status returns what the node knows of itself.
	Status() *apiv1.StatusResponse
	// Tick takes another node's signed tick, for the next tick entry.
	Tick(signed []byte) error
	// Head returns a signed statement of the tree at a size, 0 for where the node stands.
	Head(size uint64) ([]byte, error)
}

// Show implements the API's DomainService.
func (s *domainAPI) Show(ctx context.Context, _ *apiv1.ShowRequest) (*apiv1.ShowResponse, error) {
	entries, contacts, err := s.domain.Chain(ctx)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, b := range append(slices.Clip(entries), contacts...) {
		size += len(b)
	}
	if err := part.Spend(ctx, size); err != nil {
		return nil, err
	}
	return &apiv1.ShowResponse{Genesis: entries[0], Rosters: entries[1:], Contacts: contacts}, nil
}

// Submit implements the API's DomainService.
func (s *domainAPI) Submit(ctx context.Context, r *apiv1.SubmitRequest) (*apiv1.SubmitResponse, error) {
	switch kind, _, err := receipt.Split(r.GetEntry()); {
	case err != nil:
		return nil, err
	case kind != receipt.KindRoster && kind != receipt.KindProposal && kind != receipt.KindEndorsement:
		return nil, malformed("entry", "is a %s entry; a roster change, a proposal or an endorsement can be handed in", kind)
	}
	o, err := s.domain.Submit(ctx, r.GetEntry(), r.GetContact(), r.GetEvidence())
	if err != nil {
		return nil, err
	}
	return &apiv1.SubmitResponse{TransactionId: o.ID[:], Leaf: o.Leaf}, nil
}

// Status implements the API's DomainService.
func (s *domainAPI) Status(context.Context, *apiv1.StatusRequest) (*apiv1.StatusResponse, error) {
	return s.domain.Status(), nil
}

// GetHead implements the API's DomainService.
func (s *domainAPI) GetHead(_ context.Context, r *apiv1.GetHeadRequest) (*apiv1.GetHeadResponse, error) {
	head, err := s.domain.Head(r.GetSize())
	if err != nil {
		return nil, err
	}
	return &apiv1.GetHeadResponse{Statement: head}, nil
}

// Tick implements the API's DomainService.
func (s *domainAPI) Tick(_ context.Context, r *apiv1.TickRequest) (*apiv1.TickResponse, error) {
	if err := s.domain.Tick(r.GetTick()); err != nil {
		return nil, err
	}
	return &apiv1.TickResponse{}, nil
}

// domainAPI answers the API's DomainService.
type domainAPI struct{ domain Domain }

// DomainProcedures are those of the API's DomainService.
func DomainProcedures(by Domain) []part.Procedure {
	s := &domainAPI{by}
	return []part.Procedure{
		part.Unary(api.DomainServiceShowProcedure, part.Limits{In: small, Values: 8, Out: answers, Rate: 100, Flight: 16}, s.Show),
		part.Unary(api.DomainServiceSubmitProcedure, part.Limits{In: transaction, Values: 8, Out: small, Waits: true, Rate: 100}, s.Submit),
		part.Unary(api.DomainServiceTickProcedure, part.Limits{In: small, Values: 8, Out: small, Uncounted: true}, s.Tick),
		part.Unary(api.DomainServiceStatusProcedure, part.Limits{In: small, Values: 8, Out: usual, Uncounted: true}, s.Status),
		part.Unary(api.DomainServiceGetHeadProcedure, part.Limits{In: small, Values: 8, Out: small, Rate: 100, Flight: 16}, s.GetHead),
	}
}
