package serve

import (
	"context"
	"slices"

	"connectrpc.com/connect"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/receipt"
)

// A Domain is what the handlers show of a domain and hand entries to.
type Domain interface {
	// Chain returns the genesis entry, the roster entries after it, and the
	// contacts of the nodes.
	Chain(ctx context.Context) (entries, contacts [][]byte, err error)
	// Submit hands in a roster change, a proposal or an endorsement, and waits for it
	// to take effect.
	Submit(ctx context.Context, entry, contact []byte) (Outcome, error)
	// Status returns what the node knows of itself.
	Status() *apiv1.StatusResponse
	// Tick takes another node's signed tick, for the next tick entry.
	Tick(signed []byte) error
	// Head returns a signed statement of the tree at a size, 0 for where the node stands.
	Head(size uint64) ([]byte, error)
}

// Show implements the API's DomainService.
func (s *server) Show(ctx context.Context, _ *connect.Request[apiv1.ShowRequest]) (*connect.Response[apiv1.ShowResponse], error) {
	entries, contacts, err := s.domain.Chain(ctx)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, b := range append(slices.Clip(entries), contacts...) {
		size += len(b)
	}
	if err := Spend(ctx, size); err != nil {
		return nil, err
	}
	return connect.NewResponse(&apiv1.ShowResponse{Genesis: entries[0], Rosters: entries[1:], Contacts: contacts}), nil
}

// Submit implements the API's DomainService.
func (s *server) Submit(ctx context.Context, r *connect.Request[apiv1.SubmitRequest]) (*connect.Response[apiv1.SubmitResponse], error) {
	switch kind, _, err := receipt.Split(r.Msg.GetEntry()); {
	case err != nil:
		return nil, err
	case kind != receipt.KindRoster && kind != receipt.KindProposal && kind != receipt.KindEndorsement:
		return nil, malformed("entry", "is a %s entry; a roster change, a proposal or an endorsement can be handed in", kind)
	}
	o, err := s.domain.Submit(ctx, r.Msg.GetEntry(), r.Msg.GetContact())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apiv1.SubmitResponse{TransactionId: o.ID[:], Leaf: o.Leaf}), nil
}

// Status implements the API's DomainService.
func (s *server) Status(context.Context, *connect.Request[apiv1.StatusRequest]) (*connect.Response[apiv1.StatusResponse], error) {
	return connect.NewResponse(s.domain.Status()), nil
}

// GetHead implements the API's DomainService.
func (s *server) GetHead(_ context.Context, r *connect.Request[apiv1.GetHeadRequest]) (*connect.Response[apiv1.GetHeadResponse], error) {
	head, err := s.domain.Head(r.Msg.GetSize())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&apiv1.GetHeadResponse{Statement: head}), nil
}

// Tick implements the API's DomainService.
func (s *server) Tick(_ context.Context, r *connect.Request[apiv1.TickRequest]) (*connect.Response[apiv1.TickResponse], error) {
	if err := s.domain.Tick(r.Msg.GetTick()); err != nil {
		return nil, err
	}
	return connect.NewResponse(&apiv1.TickResponse{}), nil
}
