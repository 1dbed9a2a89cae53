package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/key"
)

// signers are the keys that this node could sign with. Which one it does, if any, the
// roster in force says.
type signers struct {
	kept *key.Node // in the directory; nil if none is
	boot *key.Node // of this start, in memory alone; nil where nodes keep theirs
}

// openSigners decides whether the node keeps its signing key: it does where nodes show
// no evidence that could bring in another, and where disks are trusted. Elsewhere it
// draws a new one, for which the kept one, if there is one still, stands in until the
// roster names the new.
func (n *core) openSigners(ctx context.Context) (err error) {
	if n.signers.kept, err = loadSigner(ctx, n.cfg.Dir, n.tpm); err != nil {
		return err
	}
	if n.genesis.AsksEvidence() && !n.genesis.TrustsDisks() {
		n.signers.boot, err = key.NewNode(rand.Reader)
		return err
	}
	path := filepath.Join(n.cfg.Dir, contactFile)
	switch k := n.signers.kept; {
	case k == nil:
		return fmt.Errorf("%s has no signing key: neither %s nor %s", n.cfg.Dir, seedFile, sealedFile)
	case k.Public() != n.own.Key:
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: path, Want: "the signing key in " + n.cfg.Dir, Got: "another"})
	}
	return nil
}

// namedKey returns the key of this node that the roster in force names. Until it names one
// that is here, the node signs nothing (key-pending).
func (n *core) namedKey() (*key.Node, error) {
	roster, _, _ := n.machine.roster()
	me, _ := roster.Node(n.name)
	for _, k := range []*key.Node{n.signers.boot, n.signers.kept} {
		if k != nil && k.Public() == me.Key {
			return k, nil
		}
	}
	return nil, n.pending()
}

// pending says that the roster names no key that this node signs with.
func (n *core) pending() error {
	roster, sequence, _ := n.machine.roster()
	me, _ := roster.Node(n.name)
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyPending, Where: "node " + n.name, Want: fmt.Sprintf("its signing key in roster %d", sequence), Got: me.Key.String()})
}

// forget removes the kept key, once another has taken its place.
func (n *core) forget() error {
	if n.signers.kept == nil {
		return nil
	}
	for _, name := range []string{sealedFile, seedFile} {
		if err := os.Remove(filepath.Join(n.cfg.Dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(n.cfg.Dir)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// contactBy returns this node's contact, signed.
func (n *core) contactBy(k *key.Node) []byte {
	c := n.own
	c.Key = k.Public()
	return c.Sign(k)
}

// leaveContact puts the contact of this start's key into the directory: members who
// have to bring the key in find it there.
func (n *core) leaveContact() error {
	if n.signers.boot == nil {
		return nil
	}
	path := filepath.Join(n.cfg.Dir, contactFile)
	if err := os.WriteFile(path+".new", n.contactBy(n.signers.boot), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
