package keyring

import (
	"io"
	"slices"
)

// maxPlan is how many rounds are opened at once.
const maxPlan = 16

// Plan is what the leader asks: which rounds are due.
type Plan struct {
	Keys    []string               // names of all key specifications
	Skip    func(node string) bool // nodes that let rounds fail, to be left out if the others are enough
	Patient bool                   // to begin the first epoch only with all nodes
}

// Due returns the openings, signed, of the rounds that the state asks for; each takes
// its name from random. An epoch comes before all keys. It is due when there is none,
// when a node of it has left the roster, or when a node says that it lacks the secret.
func (g *Ring) Due(st State, at *Standing, plan Plan, random io.Reader) ([]Opening, error) {
	now, err := Current(st)
	if err != nil {
		return nil, err
	}
	said, err := g.announcements(st, at)
	if err != nil {
		return nil, err
	}
	if nodes, due := epochDue(&now, at, said, plan); due {
		if nodes == nil {
			return nil, nil
		}
		return g.draw(at, &now, []Purpose{EpochPurpose(now.Number + 1)}, nodes, random)
	}
	if now.Number == 0 {
		return nil, nil
	}
	var wanted []Purpose
	for _, name := range plan.Keys {
		n, err := due(st, &now, name)
		if err != nil {
			return nil, err
		}
		if n > 0 && len(wanted) < maxPlan {
			wanted = append(wanted, KeyPurpose(name, n))
		}
	}
	var nodes []Announcement
	for _, name := range now.Nodes() {
		if a, there := said[name]; there && a.Lacks != now.Number && !plan.skips(name) {
			nodes = append(nodes, a)
		}
	}
	if len(nodes) < at.Majority() {
		return nil, nil
	}
	return g.draw(at, &now, wanted, nodes, random)
}

func (p *Plan) skips(node string) bool { return p.Skip != nil && p.Skip(node) }

// announcements returns what the nodes of the roster say of themselves. What is not
// theirs is passed over: they write it again.
func (g *Ring) announcements(st State, at *Standing) (map[string]Announcement, error) {
	out := map[string]Announcement{}
	for _, n := range at.Nodes {
		v, err := st.Record(NodeKey(n.Name))
		if err != nil {
			return nil, err
		}
		a, err := ParseAnnouncement(v.Data)
		if err == nil && a.Node == n.Name && a.Verify(n.Key, g.domain) == nil {
			out[n.Name] = a
		}
	}
	return out, nil
}

// epochDue returns who is to contribute to the next epoch, if one is due; nil nodes if
// too few are there yet.
func epochDue(now *Epoch, at *Standing, said map[string]Announcement, plan Plan) (nodes []Announcement, is bool) {
	is = now.Number == 0 || len(now.gone(&at.Roster)) > 0
	holders := 0
	for _, n := range at.Nodes {
		a, there := said[n.Name]
		if !there || plan.skips(n.Name) {
			continue
		}
		if a.Lacks == now.Number && now.Number > 0 {
			is = true
		} else if now.Number == 0 || slices.Contains(now.Nodes(), n.Name) {
			holders++
		}
		nodes = append(nodes, a)
	}
	few := len(nodes) < at.Majority() || now.Number == 0 && plan.Patient && len(nodes) < len(at.Nodes)
	if few || holders == 0 {
		nodes = nil
	}
	return nodes, is
}

// draw makes and signs openings.
func (g *Ring) draw(at *Standing, now *Epoch, wanted []Purpose, nodes []Announcement, random io.Reader) (out []Opening, err error) {
	for _, p := range wanted {
		o := Opening{Purpose: p, Epoch: now.Number, Roster: at.Sequence, Nodes: nodes, Proposer: g.node}
		if _, err := io.ReadFull(random, o.Round[:]); err != nil {
			return nil, err
		}
		o.Sign(g.signer, g.domain)
		out = append(out, o)
	}
	return out, nil
}

// Lacking returns the epoch of now and the nodes of the roster that say that they do not
// have its secret.
func (g *Ring) Lacking(st State, at *Standing) (epoch uint64, nodes []string, err error) {
	now, err := Current(st)
	if err != nil || now.Number == 0 {
		return now.Number, nil, err
	}
	said, err := g.announcements(st, at)
	for _, n := range at.Nodes {
		if a, there := said[n.Name]; there && a.Lacks == now.Number {
			nodes = append(nodes, n.Name)
		}
	}
	return now.Number, nodes, err
}
