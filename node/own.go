package node

import (
	"context"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/serve"
)

// own is what a node itself is, as a part: the ledger and the domain around it, objects, and the
// systems that have not moved out yet.
type own struct{ node *Node }

var _ part.Part = own{}

// Name implements part.Part.
func (own) Name() string { return "node" }

// Declare implements part.Part.
func (o own) Declare(d *part.Declaration) {
	n := o.node
	opts := n.serving()
	for _, procedures := range [][]part.Procedure{serve.LedgerProcedures(n, opts), serve.DomainProcedures(domainAPI{n}), serve.ObjectProcedures(n),
		serve.HostProcedures(hostAPI{n.admission, &n.svids}), serve.KeyProcedures(&n.releasing), serve.ArchiveProcedures(&n.archivist, opts), serve.NodeProcedures(nodeAPI{n.admission, &n.rekeying, &n.states})} {
		d.Procedures = append(d.Procedures, procedures...)
	}
	d.Judges = append(statementJudges(), part.JudgedType{Type: admit.TypeLease, Judge: n.judgeLease})
	d.Judges = append(d.Judges, n.keys.judges()...)
	d.Signs = []string{"keystead tick/1", "keystead suspension/1", "keystead head/1", "keystead endorsement/1", "keystead renewals/1", "keystead renewals/2",
		"keystead state-digest/1", "keystead rekey/1", "keystead contribution/1", "keystead rejoin/1"}
	d.Contracts = []string{contactContract, keyring.Contract, svidContract, archiveContract, recoveryContract}
}

// Start implements part.Part.
func (own) Start(context.Context, part.Host) error { return nil }

// Applied implements part.Part.
func (own) Applied(part.Batch) {}

// Close implements part.Part.
func (own) Close() error { return nil }

// What the node's own procedures are answered by, put together from its parts.
type (
	domainAPI struct{ *Node }
	hostAPI   struct {
		*admission
		svids *svids
	}
	nodeAPI struct {
		*admission
		rekeying *rekeying
		states   *states
	}
)

// Chain implements serve.Domain.
func (a domainAPI) Chain(ctx context.Context) (entries, contacts [][]byte, err error) {
	return a.membership.Chain(ctx)
}

// Tick implements serve.Domain.
func (a domainAPI) Tick(signed []byte) error { return a.pulse.Tick(signed) }

// IssueSVID implements serve.Hosts.
func (a hostAPI) IssueSVID(ctx context.Context, from part.Caller, host string) (*apiv1.IssueSVIDResponse, error) {
	return a.svids.IssueSVID(ctx, from, host)
}

// CertifyNode implements serve.Nodes.
func (a nodeAPI) CertifyNode(ctx context.Context, r *apiv1.CertifyNodeRequest) (*apiv1.CertifyNodeResponse, error) {
	return a.rekeying.CertifyNode(ctx, r)
}

// GetStateDigest implements serve.Nodes.
func (a nodeAPI) GetStateDigest(ctx context.Context, position uint64) (*apiv1.GetStateDigestResponse, error) {
	return a.states.GetStateDigest(ctx, position)
}

// GetRuling implements serve.Nodes.
func (a nodeAPI) GetRuling(ctx context.Context, proposal keystead.Digest) (*apiv1.GetRulingResponse, error) {
	return a.court.GetRuling(ctx, proposal)
}
