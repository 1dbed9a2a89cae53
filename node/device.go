package node

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/replica"
	"github.com/keystead/keystead/serve"
)

// maxSocket is about how long the path of a Unix socket may be (unix(7)).
const maxSocket = 100

// openDevice opens the TPM at a path, which may be a link to it.
func openDevice(path string) (*collect.TPM, error) {
	if len(path) > maxSocket {
		if short, err := filepath.EvalSymlinks(path); err == nil {
			path = short
		}
	}
	return collect.OpenTPM(path)
}

// openTPM opens the node's TPM, if it has one or the domain asks its nodes for
// evidence. Its attestation key must be the one that the node's contact names.
func (n *Node) openTPM(ctx context.Context) error {
	asks := n.genesis.AsksEvidence()
	switch {
	case n.cfg.TPM.Path == "" && asks:
		return conf.Bad("tpm.path must be set: the domain asks its nodes for evidence")
	case n.cfg.TPM.Path == "":
		return nil
	case n.cfg.API.Plain && asks:
		return conf.Bad("api.plain is for domains with evidence=none: without TLS there is nothing that evidence could be bound to")
	}
	var err error
	if n.tpm, err = openDevice(n.cfg.TPM.Path); err != nil {
		return err
	}
	ak, err := n.tpm.AK(ctx, collect.AKECC)
	if err != nil {
		return err
	}
	if got := key.DigestAK(ak); got != n.own.AK {
		return keystead.Deny(keystead.Finding{Reason: keystead.ReasonKeyForeign, Where: "TPM at " + n.cfg.TPM.Path,
			Want: fmt.Sprintf("the attestation key of node %s, %s", n.name, n.own.AK), Got: got.String()})
	}
	if !asks {
		return nil
	}
	root := n.cfg.TPM.Root
	if !filepath.IsAbs(root) {
		root = filepath.Join(n.cfg.Dir, root)
	}
	n.prover = collect.NewProver(n.tpm, collect.Machine{Root: root}, collect.AKECC, n.cfg.TPM.Note)
	n.gate = newGatekeeper(n.admission)
	n.muster.own = func(ctx context.Context) (exhibit, error) { return n.muster.ownExhibit(ctx, n.prover) }
	n.peers.dialAttested = n.dialAttested
	return nil
}

// showTime bounds one attested connection's making: two TPMs take turns with others.
const showTime = 15 * time.Second

// evidenceConfig is what this node brings to attested connections.
func (n *Node) evidenceConfig(by attest.Verifier) attest.Config {
	return attest.Config{Certificate: n.self.TLS, Prover: n.prover, Verifier: by, Timeout: showTime, MaxAge: n.cfg.TPM.most(), MaxBundle: maxPeerAnswer, Room: n.shown.room(n.nameOf, n.lastLeases.known)}
}

// shownRoom is for evidence that connections show.
type shownRoom struct {
	machines, unknown, nodes *serve.Room
	node, machine            int64 // that one of them has at most
}

// unknownMiB is for evidence of who shows a TLS key that no lease has had: a host that comes in
// for the first time, or anybody.
const unknownMiB = 64

func newShownRoom(c *EvidenceConfig) shownRoom {
	return shownRoom{serve.NewRoom(int64(c.ConnectionsMiB) << 20), serve.NewRoom(unknownMiB << 20), serve.NewRoom(1 << 50), int64(c.NodeMiB) << 20, int64(c.MachineMiB) << 20}
}

// room is asked for by attested connections. Each machine's is for itself. Nodes, which
// are known by their TLS keys, have room of their own, and so have hosts by those of their last
// leases: whatever others announce, nodes reach each other and hosts their nodes.
func (s *shownRoom) room(nameOf func(keystead.Digest) string, known func(keystead.Digest) bool) func(key []byte, size int) (leave func(), err error) {
	return func(key []byte, size int) (leave func(), err error) {
		pin := keystead.Sum(key)
		if name := nameOf(pin); name != "" {
			return s.nodes.Enter(name, int64(size), s.node)
		}
		if known(pin) {
			return s.machines.Enter(pin, int64(size), s.machine)
		}
		return s.unknown.Enter(new(int), int64(size), int64(size))
	}
}

// seal keeps the record of a clean shutdown: where no disk can be rolled back to it, if
// there is a TPM.
func (n *Node) seal() replica.Seal {
	path := filepath.Join(n.cfg.Dir, sealFile)
	if n.tpm == nil {
		return replica.FileSeal{FS: vfs.Default, Path: path}
	}
	return TPMSeal{TPM: n.tpm, AK: collect.AKECC, FS: vfs.Default, Path: path}
}
