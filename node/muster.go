package node

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/receipt"
)

// muster has the nodes of the roster as they showed themselves last, one bundle each: so this
// node can judge them by terms that are not in force yet. It is in memory, and begins anew with
// the node.
type muster struct {
	*library
	own func(ctx context.Context) (exhibit, error) // this node's, made when it is asked for

	mu      sync.Mutex
	shown   map[string]exhibit
	arrived chan struct{} // closed when a node shows itself
	pending []exclusion

	lately sync.Mutex // one at a time asks the TPM
	made   exhibit
	madeAt time.Time
}

// exhibit is evidence whose root of trust held, as it was answered on a connection: at most what a
// connection takes (maxPeerAnswer).
type exhibit struct {
	bundle  evidence.Bundle
	expect  evidence.Binding
	key     appraise.AcceptedKey
	ak      key.AKDigest
	ek      keystead.Digest
	time    time.Time // when it was judged
	denials []string  // subjects that would deny the machine
}

// exclusion is what a statement that this node endorsed lately has fall out.
type exclusion struct {
	proposal keystead.Digest
	nodes    []string
	until    time.Time // when it has taken effect, or never will
}

// keep keeps what a node of the roster showed, unless the root of trust did not hold: anybody
// could have sent that. Evidence that is refused is kept as well: other terms may allow it.
func (m *muster) keep(node receipt.Node, c attest.Claim, accepted appraise.AcceptedKey, v appraise.Verdict) {
	claims := v.Claims()
	if claims.Key.Name == "" || accepted.IsZero() {
		return
	}
	ek, err := tpm2.ParsePublic(accepted.EKPublic)
	if err != nil {
		return
	}
	x := exhibit{bundle: c.Bundle, expect: c.Expect, key: accepted, ak: node.AK, ek: ek.Fingerprint(), time: v.Inputs().Time, denials: admit.Denials(&claims, ek.Fingerprint())}
	roster := m.roster()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shown == nil {
		m.shown = map[string]exhibit{}
	}
	for name := range m.shown {
		if _, in := roster.Node(name); !in {
			delete(m.shown, name)
		}
	}
	if _, in := roster.Node(node.Name); in {
		m.shown[node.Name] = x
	}
	if m.arrived != nil {
		close(m.arrived)
		m.arrived = nil
	}
}

// seen returns what a node of the roster showed last, of the machine that the roster has.
func (m *muster) seen(node receipt.Node) (exhibit, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x, ok := m.shown[node.Name]
	return x, ok && x.ak == node.AK
}

// showTimeOthers is how long a judge waits for nodes that have not shown themselves since this one
// started. Those that run are on each other's line all the time.
const showTimeOthers = 3 * time.Second

// gather returns what is known of the nodes of a roster, with this node's own evidence of now: of
// itself it always knows, or judges nothing.
func (m *muster) gather(ctx context.Context, roster *receipt.Roster) (map[string]exhibit, error) {
	out := map[string]exhibit{}
	if _, in := roster.Node(m.name); in {
		own, cancel := context.WithTimeout(ctx, showTime)
		x, err := m.own(own)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("this node's own evidence: %w", err)
		}
		out[m.name] = x
	}
	ctx, cancel := context.WithTimeout(ctx, showTimeOthers)
	defer cancel()
	for {
		m.mu.Lock()
		if m.arrived == nil {
			m.arrived = make(chan struct{})
		}
		arrived := m.arrived
		m.mu.Unlock()
		missing := 0
		for _, node := range roster.Nodes {
			if node.Name == m.name {
				continue
			}
			if x, ok := m.seen(node); ok {
				out[node.Name] = x
			} else if !m.provenBad(node) {
				missing++
			}
		}
		if missing == 0 {
			return out, nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return out, nil
		}
	}
}

// change is what a statement would change about the nodes.
type change struct {
	where  string       // which statement it is
	most   uint64       // how many nodes it says may fall out
	rules  *admit.Rules // by which nodes are judged then; nil: as now
	denied string       // what is on the deny list then as well; "" for nothing
}

// spare refuses with terms-exclude what would have nodes fall out that are needed: if it leaves no
// majority of nodes that are seen to pass, or if more fall out than the statement says. Each is
// judged by its last evidence, as of now and as of when each set with a time counts no more.
// What has nobody fall out is never held back.
func (m *muster) spare(ctx context.Context, proposal keystead.Digest, roster *receipt.Roster, c change) error {
	if m.own == nil { // nodes show nothing, and are judged by nothing
		return nil
	}
	n, majority := len(roster.Nodes), roster.Majority()
	if c.most > uint64(n-majority) {
		return exclude(c.where, fmt.Sprintf("may-exclude of at most %d: a majority of %d nodes is %d, and stays", n-majority, n, majority), fmt.Sprint(c.most))
	}
	now, err := m.rules(ctx, admit.RoleNode)
	if errors.Is(err, keystead.ReasonTermsMissing) { // a node alone, which others join once there are some
		now, err = nil, nil
	}
	if err != nil {
		return err
	}
	if c.rules == nil {
		c.rules = now
	}
	known, err := m.gather(ctx, roster)
	if err != nil {
		return err
	}
	_, _, clock := m.machine.roster()
	times := []time.Time{time.UnixMilli(int64(clock))}
	if c.rules != nil {
		times = append(times, c.rules.Ends(times[0])...)
	}
	var tallies []tally
	for i, at := range times {
		t, err := m.count(known, roster, now, &c, at)
		if err != nil {
			return err
		}
		if i > 0 {
			t.from = ", from " + at.UTC().Format(time.RFC3339) + " on"
		}
		tallies = append(tallies, t)
	}
	return m.settle(proposal, roster, &c, tallies...)
}

// tally is who passes, and who falls out and why.
type tally struct {
	passing  []string
	out      map[string]keystead.Finding
	from     string
	nameless int // nodes of which nothing is known
}

// count judges the nodes by a change as of a time. Out is who passes without it, and not with it.
func (m *muster) count(known map[string]exhibit, roster *receipt.Roster, now *admit.Rules, c *change, at time.Time) (t tally, err error) {
	t.out = map[string]keystead.Finding{}
	for _, node := range roster.Nodes {
		x, ok := known[node.Name]
		if !ok {
			t.nameless++
		}
		if !ok || m.provenBad(node) {
			continue
		}
		then, err := m.against(&x, c.rules, c.denied, at)
		if err != nil {
			return t, err
		}
		if then == nil {
			if m.runs(node.Name) {
				t.passing = append(t.passing, node.Name)
			}
			continue
		}
		before, err := m.against(&x, now, "", at)
		if err != nil {
			return t, err
		}
		if before == nil {
			t.out[node.Name] = *then
		}
	}
	return t, nil
}

// runsWithin is how long ago the last tick may be of a node that runs.
const runsWithin = 10 * time.Second

// runs reports whether a node ticks, as the log has it: one that is down passes whatever its last
// evidence is, and is no help to those that are left.
func (m *muster) runs(name string) bool {
	_, _, clock := m.machine.roster()
	return name == m.name || m.machine.lastTick(name)+uint64(runsWithin.Milliseconds()) >= clock
}

// judge judges evidence by rules as of a time; false without any.
func (x *exhibit) judge(rules *admit.Rules, at time.Time) (v appraise.Verdict, judged bool) {
	if rules == nil {
		return v, false
	}
	in := rules.Input(at)
	in.Bundle, in.Expect, in.Key, in.Time = x.bundle, x.expect, x.key, x.time
	return appraise.Appraise(in), true
}

// against returns what speaks against a node by rules, if there are any, and by the deny list and one
// more denial; nil for nothing.
func (m *muster) against(x *exhibit, rules *admit.Rules, more string, at time.Time) (*keystead.Finding, error) {
	if v, judged := x.judge(rules, at); judged && !v.Allowed() {
		f := keystead.Finding{Reason: keystead.ReasonPolicyUnusable, Where: "verdict", Want: "a verdict", Got: "none"}
		if all := v.Findings(); len(all) > 0 {
			f = all[0]
		}
		return &f, nil
	}
	if more != "" && slices.Contains(x.denials, more) {
		return &keystead.Finding{Reason: keystead.ReasonHardwareDenied, Where: "deny list", Want: "hardware that is on no deny list", Got: more}, nil
	}
	var findings []keystead.Finding
	err := m.snapshot(func(v ledger.View) (err error) { findings, err = admit.Denied(v, "deny list", x.denials); return err })
	if err != nil || len(findings) == 0 {
		return nil, err
	}
	return &findings[0], nil
}

// settle decides by tallies, each of a later time than the one before, together with what else was
// endorsed lately and may take effect beside it: two statements by each of which one node falls out
// have two fall out. So do two times of one statement: who falls out at first is out later, whatever
// is in force then.
func (m *muster) settle(proposal keystead.Digest, roster *receipt.Roster, c *change, tallies ...tally) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.pending = slices.DeleteFunc(m.pending, func(e exclusion) bool { return now.After(e.until) || e.proposal == proposal })
	var fallen []string
	var findings []keystead.Finding
	for _, t := range tallies {
		for _, node := range roster.Nodes {
			if f, out := t.out[node.Name]; out && !slices.Contains(fallen, node.Name) {
				fallen = append(fallen, node.Name)
				findings = append(findings, keystead.Finding{Reason: keystead.ReasonTermsExclude, Where: c.where + ": node " + node.Name, Want: "what the node passes", Got: f.String() + t.from})
			}
		}
		if few := m.few(roster, c, &t, fallen); few != nil {
			return keystead.Deny(append(findings, *few)...)
		}
	}
	switch {
	case len(fallen) == 0:
		return nil
	case uint64(len(fallen)) > c.most:
		return keystead.Deny(append(findings, keystead.Finding{Reason: keystead.ReasonTermsExclude, Where: c.where, Want: fmt.Sprintf("may-exclude %d, if that is meant", len(fallen)), Got: fmt.Sprintf("may-exclude %d", c.most)})...)
	}
	m.pending = append(m.pending, exclusion{proposal, fallen, now.Add(2 * ledger.Window * time.Millisecond)})
	return nil
}

// few says that some fall out and that of the others too few pass; nil if it is not so.
func (m *muster) few(roster *receipt.Roster, c *change, t *tally, fallen []string) *keystead.Finding {
	if len(fallen) == 0 {
		return nil
	}
	passing := slices.DeleteFunc(slices.Clone(t.passing), func(name string) bool {
		return slices.Contains(fallen, name) || slices.ContainsFunc(m.pending, func(e exclusion) bool { return slices.Contains(e.nodes, name) })
	})
	if len(passing) >= roster.Majority() {
		return nil
	}
	got := "none"
	if len(passing) > 0 {
		got = strings.Join(passing, ", ")
	}
	if t.nameless > 0 {
		got += fmt.Sprintf(", and %d that did not show themselves", t.nameless)
	}
	return &keystead.Finding{Reason: keystead.ReasonTermsExclude, Where: c.where, Want: fmt.Sprintf("%d of %d nodes that run and pass by it", roster.Majority(), len(roster.Nodes)), Got: got + t.from}
}

func exclude(where, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: keystead.ReasonTermsExclude, Where: where, Want: want, Got: got})
}

// denied refuses a node whose hardware is on the deny list (hardware-denied), unless the list has so
// many nodes that no majority would be left: a denial from before nodes were asked about it must
// not close the domain. Then members have to remove nodes.
func (m *muster) denied(ctx context.Context, node receipt.Node) error {
	x, ok := m.seen(node)
	if !ok || !m.isUp() {
		return nil
	}
	find := func(name string, x *exhibit) (findings []keystead.Finding, err error) {
		err = m.snapshot(func(v ledger.View) (err error) { findings, err = admit.Denied(v, "node "+name, x.denials); return err })
		return findings, err
	}
	findings, err := find(node.Name, &x)
	if err != nil || len(findings) == 0 {
		return err
	}
	roster := m.roster()
	others := 0
	for _, other := range roster.Nodes {
		y, ok := m.seen(other)
		if other.Name == m.name {
			y, err = m.ownLately(ctx)
			ok = err == nil
		}
		if !ok {
			continue
		}
		if more, err := find(other.Name, &y); err != nil {
			return err
		} else if len(more) > 0 {
			others++
		}
	}
	if others > len(roster.Nodes)-roster.Majority() {
		m.log.Warn("the deny list has so many nodes of this domain that without them no majority would be left: it does not count for them. Remove them one by one (keystead node remove)", "node", node.Name, "because", keystead.Deny(findings...))
		return nil
	}
	return keystead.Deny(findings...)
}

// ownFor is how long this node's own evidence serves again where it is only asked what would deny
// the machine. Whoever is denied may come as often as it likes, and must not have the TPM of this one
// quote each time.
const ownFor = time.Minute

// ownLately returns this node's own evidence, made less than ownFor ago.
func (m *muster) ownLately(ctx context.Context) (exhibit, error) {
	m.lately.Lock()
	defer m.lately.Unlock()
	if m.madeAt.IsZero() || time.Since(m.madeAt) > ownFor {
		x, err := m.own(ctx)
		if err != nil {
			return x, err
		}
		m.made, m.madeAt = x, time.Now()
	}
	return m.made, nil
}

// judgeNewcomer judges the evidence of a machine that members add as a node, where they hand one in:
// one that the nodes would not let in would be a voter that never signs. It is no rule, for what could
// hold a change of the roster back could keep a bad node in it: without evidence nothing is judged.
func (m *muster) judgeNewcomer(ctx context.Context, contact, shown []byte) error {
	if m.own == nil || len(shown) == 0 {
		return nil
	}
	c, err := client.OpenContact(contact)
	if err != nil {
		return err
	}
	bundle, err := evidence.Parse(shown)
	if err != nil {
		return err
	}
	rules, err := m.rules(ctx, admit.RoleNode)
	if err != nil {
		return err
	}
	denials, err := admit.Newcomer(rules, bundle, EvidenceBinding(contact), c.AK, m.now().UTC())
	if err != nil {
		return err
	}
	var findings []keystead.Finding
	err = m.snapshot(func(v ledger.View) (err error) {
		findings, err = admit.Denied(v, "node "+c.Name, denials)
		return err
	})
	if err == nil && len(findings) > 0 {
		err = keystead.Deny(findings...)
	}
	return err
}

// ownExhibit makes this node's evidence, as another node would see it that had activated its key.
func (m *muster) ownExhibit(ctx context.Context, prover attest.Prover) (x exhibit, err error) {
	keys, err := prover.Introduce(ctx)
	if err != nil {
		return x, err
	}
	ak, err := tpm2.ParsePublic(keys.AKPublic)
	if err != nil {
		return x, err
	}
	ek, err := tpm2.ParsePublic(keys.EKPublic)
	if err != nil {
		return x, err
	}
	nonce := make([]byte, 32)
	_, _ = rand.Read(nonce) // never fails
	leaf, err := x509.ParseCertificate(m.self.TLS.Certificate[0])
	if err != nil {
		return x, err
	}
	x = exhibit{ek: ek.Fingerprint(), ak: m.core.own.AK, time: time.Now().UTC(), expect: evidence.Binding{Purpose: evidence.PurposeConnection, Nonce: nonce, SubjectKey: leaf.RawSubjectPublicKeyInfo}}
	x.key = appraise.AcceptedKey{Name: ak.Name(), EKPublic: keys.EKPublic, EKCertificate: keys.EKCertificate, Activated: x.time}
	if x.bundle, _, err = prover.Prove(ctx, x.expect, nil); err != nil {
		return x, err
	}
	rules, err := m.rules(ctx, admit.RoleNode)
	if err != nil && !errors.Is(err, keystead.ReasonTermsMissing) {
		return x, err
	}
	v, _ := x.judge(rules, x.time)
	claims := v.Claims()
	x.denials = admit.Denials(&claims, x.ek)
	return x, nil
}
