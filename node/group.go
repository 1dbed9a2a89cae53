package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/receipt"
	"github.com/keystead/keystead/replica"
)

// founders returns raft's first voters, alike on every founder: by the contacts that
// they were founded with. The file may have newer ones as well, of founders that
// have started already.
func (n *directory) founders() (out []replica.Member) {
	by := map[receipt.Node]client.Contact{}
	for _, signed := range n.file.Contacts {
		if c, err := client.OpenContact(signed); err == nil {
			by[c.Node()] = c
		}
	}
	for _, f := range n.genesis.Roster.Nodes {
		if c, ok := by[f]; ok {
			m := replica.Member{ID: uint64(len(out) + 1), Key: c.TLS, Address: c.Peer, Voter: true}
			if n.foundingVersion() >= explainedFrom {
				m.Name = memberName(f)
			}
			out = append(out, m)
		}
	}
	return out
}

// foundingVersion returns the version up to which entries count from the start.
func (n *core) foundingVersion() uint8 {
	return admit.ParseEntryVersion("", n.genesis.Setting(admit.EntryVersion))
}

// contactMembers returns whom this node knows contacts of, as members of the replica.
func (n *directory) contactMembers() (out []replica.Member) {
	for _, c := range n.knownContacts() {
		out = append(out, replica.Member{Key: c.TLS, Address: c.Peer, Voter: true})
	}
	return out
}

// otherMembers returns how many other members the replica has, by the roster that this node
// knows to be the newest.
func (n *directory) otherMembers() int {
	roster := n.roster()
	return len(roster.Nodes) - 1
}

// logCut says that the log on disk exceeded its bound, for positions stay away: who lags by
// more than what is left has to wait for one.
func (n *Node) logCut(from, to uint64) {
	n.alarm("the log on disk is cut at its bound: no position became stable for long, so who lags far has to wait for one", "from", from, "to", to)
}

// signAsked signs that this node gives up an id. Nodes of builds that do not look for that do
// not read it either, so it is left out until members voted for it, or somebody asks for it.
func (n *Node) signAsked(message []byte, wanted bool) (*replica.Asked, error) {
	if !wanted && max(n.foundingVersion(), n.machine.entryVersion()) < explainedFrom {
		return nil, nil
	}
	return n.self.Peer.Sign(message)
}

func (n *Node) startReplica(ctx context.Context) (*replica.Node, error) {
	founders := n.founders()
	isFounder := slices.ContainsFunc(founders, func(m replica.Member) bool { return m.Key == n.self.Pin })
	if isFounder && len(founders) != len(n.genesis.Roster.Nodes) {
		return nil, keystead.Deny(keystead.Finding{Reason: keystead.ReasonNotMember, Where: domainFile,
			Want: fmt.Sprintf("contacts of all %d founding nodes", len(n.genesis.Roster.Nodes)), Got: fmt.Sprintf("of %d", len(founders))})
	}
	peers := n.contactMembers()
	started := filepath.Join(n.cfg.Dir, startedFile)
	_, err := os.Stat(started)
	n.confirmed.fresh = errors.Is(err, os.ErrNotExist)
	if err == nil {
		founders = nil // a founder that lost its store must not found the group again
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	if founders == nil || !isFounder {
		n.background(func() { n.learn(stop) })
	}
	cache := pebble.NewCache(int64(n.cfg.Store.CacheMiB) << 20)
	defer cache.Unref()
	r, err := replica.Start(ctx, replica.Options{
		Sign: n.signAsked,
		Store: replica.StoreOptions{FS: n.fs, Dir: filepath.Join(n.cfg.Dir, storeDir), Machine: n.machine, Explain: n.machine.explain, LogCut: n.logCut, Cache: cache,
			Logf:    func(s string) { n.log.Warn("store", "says", s) },
			Approve: n.states.approve, TakeFiles: n.states.takesFiles, Wanted: n.confirmed.want},
		Digested: n.states.digested,
		Key:      n.self.Pin, Address: n.own.Peer, Founders: founders, Peers: peers, Learned: n.contactMembers,
		Others:     n.otherMembers,
		Joining:    n.doors.joining,
		Connect:    n.connectPeers,
		Seal:       n.seal(),
		TrustDisks: n.genesis.TrustsDisks(),
		Log:        n.log,
	})
	var removed *RemovedError
	switch out := context.Cause(ctx); {
	case err == nil:
	case errors.As(out, &removed):
		n.log.Error("members removed this node from the domain; it does not come back by itself", "because", out)
		return nil, out
	case out != nil: // what others said meanwhile is in the log, and is their word
		return nil, n.closed.ended()
	default:
		return nil, err
	}
	n.closed.set(keystead.ReasonClosedRecovery, nil)
	n.closed.set(keystead.ReasonClosedNoMajority, nil)
	if err := conf.WriteNew(started, nil); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}
