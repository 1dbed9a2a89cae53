package node

import (
	"context"
	"slices"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// standing is what a node goes by while its own state is behind, and others are to be
// judged all the same: it may have to join them first.
type standing struct {
	up      chan struct{}  // closed once the replica runs
	terms   admit.InForce  // for nodes: by the state as it was opened, or that others proved to be newer
	missing error          // why there are no terms
	newer   receipt.Roster // that others handed over, with its chain
	number  uint64         // of newer
	before  []receipt.Roster
	version uint8 // up to which entries count, as others proved
}

// opened takes note of the terms for nodes whenever the state is opened. That there are
// none is told to who asks for them.
func (n *states) opened(v ledger.View) error {
	if err := n.confirmed.reopened(v); err != nil {
		return err
	}
	n.outlook.replaced.Store(true)
	f, err := admit.TermsOf(founded{v, n.core}, admit.RoleNode)
	n.mu.Lock()
	defer n.mu.Unlock()
	if f.Version >= n.standing.terms.Version {
		n.standing.terms, n.standing.missing = f, err
	}
	return nil
}

func (n *directory) isUp() bool {
	select {
	case <-n.standing.up:
		return true
	default:
		return false
	}
}

func (n *directory) caughtUp() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pace.caughtUp
}

// inForce returns the terms in force for a role: for nodes, those that others proved
// to be newer than this node's state has them. Before the replica runs, nodes alone are
// judged.
func (n *directory) inForce(role string) (f admit.InForce, err error) {
	n.mu.Lock()
	learned, missing := n.standing.terms, n.standing.missing
	n.mu.Unlock()
	if !n.isUp() {
		return learned, missing
	}
	err = n.view(func(v ledger.View) error {
		f, err = admit.TermsOf(founded{v, n.core}, role)
		return err
	})
	if role == admit.RoleNode && learned.Version > f.Version {
		return learned, nil
	}
	return f, err
}

// roster returns the roster by which others are known: the one in force as far as this
// node has applied the log, one that other nodes proved to be newer, or the founding
// one while there is none.
func (n *directory) roster() receipt.Roster {
	r, number, _ := n.machine.roster()
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.standing.number > number:
		return n.standing.newer
	case len(r.Nodes) == 0:
		return n.genesis.Roster
	}
	return r
}

// learn asks the other nodes for the chain of rosters, which proves itself, and for the
// terms for nodes, with their receipt, until this node has its place among them or has
// caught up. So this node knows whom it may join, and by what it is to judge them, though its own state
// is old. That what it is told is the newest is the word of who answers; it never goes
// back. A node that members removed gets no place: stop is called with that.
func (n *directory) learn(stop context.CancelCauseFunc) {
	for n.running.Err() == nil && !n.caughtUp() {
		err := n.learnOnce(n.file.Contacts)
		pause := 500 * time.Millisecond
		switch {
		case err == nil && n.isUp():
			return
		case err == nil:
			if out := n.removed(); out != nil {
				stop(out)
				return
			}
			pause *= 4
		default:
			n.log.Debug("nothing newer was learned", "because", err)
		}
		select {
		case <-n.running.Done():
		case <-time.After(pause):
		}
	}
}

// removed refuses to go on once the newest known roster is without this node, and one
// before it was not. A node that members have yet to add waits for it.
func (n *directory) removed() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	at := &n.standing
	if at.number == 0 || n.belongs(&at.newer) || !slices.ContainsFunc(at.before, func(r receipt.Roster) bool { return n.belongs(&r) }) {
		return nil
	}
	return n.outOf(at.number)
}

func (n *directory) learnOnce(contacts [][]byte) error {
	ctx, cancel := context.WithTimeout(n.running, 10*time.Second)
	defer cancel()
	cl, err := n.others(contacts)
	if err != nil {
		return err
	}
	defer cl.Close()
	v, err := cl.Show(ctx)
	if err != nil {
		return err
	}
	n.mu.Lock()
	for name, c := range v.Contacts {
		if name != n.name {
			n.contacts[name] = c
		}
	}
	if v.Sequence > n.standing.number {
		n.standing.newer, n.standing.number, n.standing.before = v.Roster, v.Sequence, v.Before
	}
	n.mu.Unlock()
	if err := n.learnVersion(ctx, cl); err != nil || !n.genesis.AsksEvidence() {
		return err
	}
	return n.learnTerms(ctx, cl)
}

// learnVersion takes the setting entry-version, by which this node knows what it may take
// in as its state.
func (n *directory) learnVersion(ctx context.Context, cl *client.Client) error {
	value, err := n.proven(ctx, cl, admit.TypeSetting+"/"+admit.EntryVersion, 0)
	if err != nil || value.Version == 0 {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.standing.version = max(n.standing.version, admit.ParseEntryVersion(string(value.Data), ""))
	return nil
}

// proven returns what a judged key holds by the word of another node and a receipt, if
// that is newer than a version; else a zero Value.
func (n *directory) proven(ctx context.Context, cl *client.Client, key string, known uint64) (admit.Value, error) {
	s, err := cl.State(ctx, []string{key}, nil)
	if err != nil {
		return admit.Value{}, err
	}
	version := s.GetValues()[0].GetVersion()
	if version <= known {
		return admit.Value{}, nil // founding values have version 0
	}
	_, proven, err := cl.Receipt(ctx, version-1)
	if err != nil {
		return admit.Value{}, err
	}
	e, err := ledger.ParseEffective(proven.Entry)
	if err != nil {
		return admit.Value{}, err
	}
	for _, w := range e.Verdict.Writes {
		if w.Key == key {
			return admit.Value{Version: version, Data: w.Value}, nil
		}
	}
	return admit.Value{}, keystead.Deny(keystead.Finding{Reason: keystead.ReasonProofInvalid, Where: key, Want: "an entry that wrote it", Got: "another"})
}

// knownRoster returns the newest roster that others proved, and its sequence.
func (n *directory) knownRoster() (receipt.Roster, uint64) {
	r, number, _ := n.machine.roster()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.standing.number > number {
		return n.standing.newer, n.standing.number
	}
	return r, number
}

// learnTerms takes the terms for nodes, if they are newer than those known.
func (n *directory) learnTerms(ctx context.Context, cl *client.Client) error {
	n.mu.Lock()
	known := n.standing.terms.Version
	n.mu.Unlock()
	v, err := n.proven(ctx, cl, admit.TypeTerms+"/"+admit.RoleNode, known)
	if err != nil || v.Version == 0 {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.standing.terms, n.standing.missing = admit.InForce{Role: admit.RoleNode, Digest: keystead.Sum(v.Data), Version: v.Version, Text: v.Data}, nil
	return nil
}

// others returns a client of the other nodes, without evidence: for what proves itself.
func (n *directory) others(contacts [][]byte) (*client.Client, error) {
	file := &client.Domain{Genesis: n.file.Genesis}
	for _, s := range contacts {
		if c, err := client.OpenContact(s); err == nil && c.Name != n.name {
			file.Contacts = append(file.Contacts, s)
		}
	}
	return client.Open(file, n.cfg.Domain, client.Options{Certificate: &n.self.TLS, Attempt: time.Second})
}

// leads reports whether a contact is that of a node of a roster. A node that has just
// started has another signing key than its contact; its machine is the same.
func leads(c *client.Contact, node receipt.Node) bool {
	return c.Node() == node || c.Name == node.Name && c.AK == node.AK && !node.AK.None()
}
