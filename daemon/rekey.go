package daemon

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"connectrpc.com/connect"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/refusal"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// newKeys makes the node's signing key: in a domain that trusts its disks the lasting
// one, which from the first start on is on the disk sealed to the TPM alone; in any
// other a new one for this run, which is on no disk, and which the rekey loop has the
// others bring into the roster. A domain that asks for no evidence keeps it in the open.
func (n *Node) newKeys(ctx context.Context) (err error) {
	switch {
	case n.tpm == nil:
	case n.genesis.TrustsDisks():
		err = n.sealKey(ctx)
	default:
		n.boot, err = key.NewNode(rand.Reader)
	}
	if err == nil && n.self.Node == nil && n.boot == nil {
		err = fmt.Errorf("%s: has no signing key", n.cfg.Dir)
	}
	if err == nil && n.self.Node != nil && n.contacts[n.name].Key != n.self.Node.Public() {
		err = keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: filepath.Join(n.cfg.Dir, contactFile), Want: "the keys in " + n.cfg.Dir, Got: "others"})
	}
	return err
}

// sealKey opens the sealed signing key, or seals the one that lies open.
func (n *Node) sealKey(ctx context.Context) error {
	open, sealed := filepath.Join(n.cfg.Dir, seedFile), filepath.Join(n.cfg.Dir, sealedFile)
	if seed, err := readSecret(open); err == nil {
		blob, err := n.tpm.Seal(ctx, seed, evidence.SHA256, collect.BootPCRs())
		if err != nil {
			return err
		}
		if err := writeNew(sealed, blob); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if again, err := n.unseal(ctx, sealed); err != nil || again.Public() != n.self.Node.Public() {
			return errors.Join(errors.New("the sealed signing key is not the one that lies open"), err)
		}
		return errors.Join(os.Remove(open), syncDir(n.cfg.Dir))
	}
	var err error
	n.self.Node, err = n.unseal(ctx, sealed)
	return err
}

func (n *Node) unseal(ctx context.Context, file string) (*key.Node, error) {
	blob, err := readSecret(file)
	if err != nil {
		return nil, err
	}
	seed, err := n.tpm.Unseal(ctx, blob)
	if err != nil {
		return nil, err
	}
	return nodeOf(seed)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// signer is the key by which this node signs: the one of its keys that the roster in
// force names.
func (n *Node) signer() *key.Node {
	if n.boot == nil {
		return n.self.Node
	}
	roster, _, _ := n.machine.roster()
	if named(&roster, n.name, n.boot.Public()) || n.self.Node == nil {
		return n.boot
	}
	return n.self.Node
}

// rekeyLoop has the key of this run brought into the roster, and then says anew under
// it where this node is found and by which authority it signs.
func (n *Node) rekeyLoop() {
	if n.boot == nil {
		return
	}
	n.retry("rekey", func(ctx context.Context) error {
		roster, _, _ := n.machine.roster()
		if named(&roster, n.name, n.boot.Public()) {
			return nil
		}
		if _, in := roster.Node(n.name); !in {
			return keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: "roster", Want: "this node, " + n.name, Got: "a roster without it"})
		}
		if err := n.rekey(ctx); err != nil {
			n.pause() // others may be at it at the same time
			return err
		}
		n.log.Info("signing key of this run is in the roster")
		return nil
	})
	n.retry("contact", func(ctx context.Context) error {
		own := n.contactNow()
		own.Key = n.boot.Public()
		return n.publish(ctx, own.Sign(n.boot))
	})
	n.retry("authority", n.publishAuthority)
}

// pause waits for a time that differs from node to node.
func (n *Node) pause() {
	var b [1]byte
	_, _ = rand.Read(b[:]) // never fails
	select {
	case <-time.After(time.Duration(b[0]) * 2 * time.Millisecond):
	case <-n.running.Done():
	}
}

func (n *Node) contactNow() client.Contact {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.contacts[n.name]
}

// rekey makes the change, has a majority sign it, and hands it in.
func (n *Node) rekey(ctx context.Context) error {
	chain, err := n.chain()
	if err != nil {
		return err
	}
	roster, sequence, _ := n.machine.roster()
	change := receipt.Change{Domain: n.cfg.Domain, Sequence: sequence + 1, After: keystead.Sum(chain[len(chain)-1]), Rekey: true, Roster: roster}
	change.Roster.Nodes = slices.Clone(roster.Nodes)
	for i := range change.Roster.Nodes {
		if change.Roster.Nodes[i].Name == n.name {
			change.Roster.Nodes[i].Key = n.boot.Public()
		}
	}
	certificate, err := n.tpm.Certify(ctx, receipt.KeyBinding(change.Domain, change.After, n.name, n.boot.Public()), collect.AKECC, nil)
	if err != nil {
		return err
	}
	change.Certificates = []receipt.Certificate{{Node: n.name, Certification: certificate}}
	text, err := change.Text()
	if err != nil {
		return err
	}
	signed, err := n.certified(ctx, text, &roster)
	if err != nil {
		return err
	}
	entry, err := receipt.NoteEntry(signed)
	if err != nil {
		return err
	}
	result, err := n.propose(ctx, entry)
	if err != nil {
		return err
	}
	return n.showing(ctx, result.Index)
}

// certified gathers the signatures of a majority of the roster under a rekey.
func (n *Node) certified(ctx context.Context, text []byte, roster *receipt.Roster) ([]byte, error) {
	signed := append(slices.Clone(text), '\n')
	count := 0
	if n.self.Node != nil && named(roster, n.name, n.self.Node.Public()) {
		own, _ := roster.Node(n.name)
		signed = receipt.AppendSignature(signed, own, n.self.Node.Sign(text))
		count++
	}
	var errs []error
	for _, p := range n.peers.others() {
		if count >= roster.Majority() {
			break
		}
		node, in := roster.Node(p.Name)
		r, err := p.nodes.CertifyNode(ctx, connect.NewRequest(&apiv1.CertifyNodeRequest{Change: text}))
		if err != nil || !in || len(r.Msg.GetSignature()) != len(key.NodeSignature{}) {
			errs = append(errs, refusal.Decode(err))
			continue
		}
		sig := key.NodeSignature(r.Msg.GetSignature())
		if !node.Key.Verify(text, sig) {
			errs = append(errs, fmt.Errorf("node %s signed by another key", p.Name))
			continue
		}
		signed = receipt.AppendSignature(signed, node, sig)
		count++
	}
	if count < roster.Majority() {
		return nil, errors.Join(append(errs, keystead.Deny(keystead.Finding{Reason: keystead.ReasonMajorityMissing, Where: "rekey", Want: fmt.Sprintf("signatures of %d nodes", roster.Majority()), Got: fmt.Sprint(count)}))...)
	}
	return signed, nil
}

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
