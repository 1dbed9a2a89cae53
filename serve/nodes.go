package serve

import (
	"context"
	"strings"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
)

// Nodes is what nodes ask of each other.
type Nodes interface {
	// Witness judges evidence for renewals a second time.
	Witness(ctx context.Context, r *apiv1.WitnessRequest) (*apiv1.WitnessResponse, error)
	// CertifyNode signs the roster change that brings in a node's new signing key.
	CertifyNode(ctx context.Context, r *apiv1.CertifyNodeRequest) (*apiv1.CertifyNodeResponse, error)
	// ExchangeHeads takes the statements of the node of that name, and of others, and
	// returns this node's.
	ExchangeHeads(from string, r *apiv1.ExchangeHeadsRequest) (*apiv1.ExchangeHeadsResponse, error)
	// GetStateDigest says what the node makes of its state at a position.
	GetStateDigest(ctx context.Context, position uint64) (*apiv1.GetStateDigestResponse, error)
	// GetRuling says what the node came to on a proposal, once it has.
	GetRuling(ctx context.Context, proposal keystead.Digest) (*apiv1.GetRulingResponse, error)
}

// Witness implements the API's NodeService.
func (s *server) Witness(ctx context.Context, r *connect.Request[apiv1.WitnessRequest]) (*connect.Response[apiv1.WitnessResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	return answer(s.nodes.Witness(ctx, r.Msg))
}

// CertifyNode implements the API's NodeService.
func (s *server) CertifyNode(ctx context.Context, r *connect.Request[apiv1.CertifyNodeRequest]) (*connect.Response[apiv1.CertifyNodeResponse], error) {
	if s.nodes == nil {
		return nil, unimplemented()
	}
	return answer(s.nodes.CertifyNode(ctx, r.Msg)) // who has a new key is known by no name yet; the evidence is what counts
}

// MaxHeard is how many statements of others a node hands on at once.
const MaxHeard = 512

// ExchangeHeads implements the API's NodeService.
func (s *server) ExchangeHeads(ctx context.Context, r *connect.Request[apiv1.ExchangeHeadsRequest]) (*connect.Response[apiv1.ExchangeHeadsResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	if n := len(r.Msg.GetHeard()); n > MaxHeard {
		return nil, malformed("heard", "are %d statements, at most %d are taken", n, MaxHeard)
	}
	return answer(s.nodes.ExchangeHeads(PeerOf(ctx).Node, r.Msg))
}

// GetStateDigest implements the API's NodeService.
func (s *server) GetStateDigest(ctx context.Context, r *connect.Request[apiv1.GetStateDigestRequest]) (*connect.Response[apiv1.GetStateDigestResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	return answer(s.nodes.GetStateDigest(ctx, r.Msg.GetPosition()))
}

// GetRuling implements the API's NodeService.
func (s *server) GetRuling(ctx context.Context, r *connect.Request[apiv1.GetRulingRequest]) (*connect.Response[apiv1.GetRulingResponse], error) {
	if err := s.fromNode(ctx); err != nil {
		return nil, err
	}
	var id keystead.Digest
	if len(r.Msg.GetProposal()) != len(id) {
		return nil, malformed("proposal", "is %d bytes, not %d", len(r.Msg.GetProposal()), len(id))
	}
	return answer(s.nodes.GetRuling(ctx, keystead.Digest(r.Msg.GetProposal())))
}

// fromNode refuses requests of others than the domain's nodes.
func (s *server) fromNode(ctx context.Context) error {
	if s.nodes == nil {
		return unimplemented()
	}
	if p := PeerOf(ctx); p.Node == "" {
		return keystead.Deny(notNode())
	}
	return nil
}

func notNode() keystead.Finding {
	return keystead.Finding{Reason: keystead.ReasonNotMember, Where: "connection", Want: "a node of the domain", Got: "another client"}
}

func cutSubject(s string) (kind, subject string, ok bool) {
	kind, subject, ok = strings.Cut(s, "/")
	return kind, subject, ok && kind != "" && subject != ""
}
