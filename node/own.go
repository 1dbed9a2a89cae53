package node

import (
	"context"

	"github.com/keystead/keystead/admit"
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
	for _, procedures := range [][]part.Procedure{
		serve.LedgerProcedures(n, opts), serve.DomainProcedures(domainAPI{n, n.guard, &n.membership, &n.pulse}), serve.ObjectProcedures(n),
		serve.HostProcedures(hostAPI{n.admission, &n.svids}), serve.KeyProcedures(&n.releasing), serve.ArchiveProcedures(&n.archivist, opts), serve.NodeProcedures(nodeAPI{n.admission, n.guard, &n.rekeying, &n.states, &n.court})} {
		d.Procedures = append(d.Procedures, procedures...)
	}
	d.Judges = append(n.muster.statementJudges(func() map[string]admit.Reader { return n.assembly.readers() }), part.JudgedType{Type: admit.TypeLease, Judge: n.judgeLease})
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

// What answers the node's own procedures, put together from its layers and types: each method is
// that of the one which has it nearest.
type (
	domainAPI struct {
		*Node
		*guard
		*membership
		*pulse
	}
	hostAPI struct {
		*admission
		*svids
	}
	nodeAPI struct {
		*admission
		*guard
		*rekeying
		*states
		*court
	}
)
