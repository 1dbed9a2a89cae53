package serve

import (
	"context"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	api "github.com/keystead/keystead/api/v1/apiv1connect"
	"github.com/keystead/keystead/part"
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
func (s *nodesAPI) Witness(ctx context.Context, r *apiv1.WitnessRequest) (*apiv1.WitnessResponse, error) {
	if err := fromNode(ctx); err != nil {
		return nil, err
	}
	return s.nodes.Witness(ctx, r)
}

// CertifyNode implements the API's NodeService.
func (s *nodesAPI) CertifyNode(ctx context.Context, r *apiv1.CertifyNodeRequest) (*apiv1.CertifyNodeResponse, error) {
	return s.nodes.CertifyNode(ctx, r) // who has a new key is known by no name yet; the evidence is what counts
}

// MaxHeard is how many statements of others a node hands on at once.
const MaxHeard = 512

// ExchangeHeads implements the API's NodeService.
func (s *nodesAPI) ExchangeHeads(ctx context.Context, r *apiv1.ExchangeHeadsRequest) (*apiv1.ExchangeHeadsResponse, error) {
	if err := fromNode(ctx); err != nil {
		return nil, err
	}
	if n := len(r.GetHeard()); n > MaxHeard {
		return nil, malformed("heard", "are %d statements, at most %d are taken", n, MaxHeard)
	}
	return s.nodes.ExchangeHeads(part.CallerOf(ctx).Node, r)
}

// GetStateDigest implements the API's NodeService.
func (s *nodesAPI) GetStateDigest(ctx context.Context, r *apiv1.GetStateDigestRequest) (*apiv1.GetStateDigestResponse, error) {
	if err := fromNode(ctx); err != nil {
		return nil, err
	}
	return s.nodes.GetStateDigest(ctx, r.GetPosition())
}

// GetRuling implements the API's NodeService.
func (s *nodesAPI) GetRuling(ctx context.Context, r *apiv1.GetRulingRequest) (*apiv1.GetRulingResponse, error) {
	if err := fromNode(ctx); err != nil {
		return nil, err
	}
	var id keystead.Digest
	if len(r.GetProposal()) != len(id) {
		return nil, malformed("proposal", "is %d bytes, not %d", len(r.GetProposal()), len(id))
	}
	return s.nodes.GetRuling(ctx, keystead.Digest(r.GetProposal()))
}

// fromNode refuses requests of others than the domain's nodes.
func fromNode(ctx context.Context) error {
	if p := part.CallerOf(ctx); p.Node == "" {
		return keystead.Deny(notNode())
	}
	return nil
}

func notNode() keystead.Finding {
	return keystead.Finding{Reason: keystead.ReasonNotMember, Where: "connection", Want: "a node of the domain", Got: "another client"}
}

// nodesAPI answers the API's NodeService.
type nodesAPI struct{ nodes Nodes }

// NodeProcedures are those of the API's NodeService, which nodes ask of each other.
func NodeProcedures(by Nodes) []part.Procedure {
	s := &nodesAPI{by}
	return []part.Procedure{
		part.Unary(api.NodeServiceWitnessProcedure, part.Limits{From: part.ClassNode, Values: 16 * maxBatch, Out: 4 << 20}, s.Witness),
		part.Unary(api.NodeServiceCertifyNodeProcedure, part.Limits{From: part.ClassHost, In: 2 * usual, Values: 8, Out: usual}, s.CertifyNode),
		part.Unary(api.NodeServiceGetRulingProcedure, part.Limits{From: part.ClassNode, In: small, Values: 8, Out: usual}, s.GetRuling),
		part.Unary(api.NodeServiceGetStateDigestProcedure, part.Limits{From: part.ClassNode, In: small, Values: 8, Out: usual}, s.GetStateDigest),
		part.Unary(api.NodeServiceExchangeHeadsProcedure, part.Limits{From: part.ClassNode, In: 512 * MaxHeard, Values: 2 * MaxHeard, Out: 512 * MaxHeard, Uncounted: true}, s.ExchangeHeads),
	}
}
