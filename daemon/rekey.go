package daemon

import (
	"context"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/receipt"
)

// CertifyNode implements serve.Nodes: it signs a rekey that follows the roster of now,
// in which the TPM of each node whose key changes certified the new one. Whose
// connection it came over plays no part.
func (n *Node) CertifyNode(_ context.Context, r *apiv1.CertifyNodeRequest) (*apiv1.CertifyNodeResponse, error) {
	chain, err := n.chain()
	if err != nil {
		return nil, err
	}
	roster, sequence, _ := n.machine.roster()
	if _, err := receipt.CheckRekey(r.GetChange(), n.cfg.Domain, sequence+1, keystead.Sum(chain[len(chain)-1]), &roster); err != nil {
		return nil, err
	}
	signature := n.signer().Sign(r.GetChange())
	return &apiv1.CertifyNodeResponse{Node: n.name, Signature: signature[:]}, nil
}
