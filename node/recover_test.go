package node_test

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/node"
)

// TestRecovery kills all nodes at once. The domain stays closed until as many
// members as must have signed reopen it from one node's disk, and then all that was
// acknowledged is there.
func TestRecovery(t *testing.T) {
	t.Parallel()
	second, err := key.NewMember(rand.Reader, "test.second")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: t.TempDir(), file: &client.Domain{}, others: []key.Member{second}}
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		c.file.Contacts = append(c.file.Contacts, c.prepare(name, "", filepath.Join(c.dir, name)))
	}
	c.seal()
	c.startAll()
	c.whole(0, 1, 2)
	cl := c.client("")
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	const puts = 50
	for i := range puts {
		if _, err := cl.Put(ctx, fmt.Sprintf("kv/%d", i), []byte("kept")); err != nil {
			t.Fatal(err)
		}
	}

	for i := range c.nodes {
		_ = c.end(i, syscall.SIGKILL) // its status says that it was killed
	}
	for i := range c.nodes {
		c.start(i)
	}
	for i := range c.nodes {
		c.says(i, "not joined yet")
	}
	short, cancel := context.WithTimeout(ctx, time.Second)
	_, err = cl.Put(short, "kv/closed", nil)
	cancel()
	if !client.Unavailable(err) {
		t.Errorf("a closed domain answers a write with %v", err)
	}
	if _, err := node.PlanRecovery(c.config(0)); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("the disk of a node that runs: want that it is locked, got %v", err)
	}
	for i := range c.nodes {
		_ = c.end(i, syscall.SIGTERM) // before it had its place: its status says so
	}
	best, plan := c.furthest()
	c.refuses(best, plan, second)

	signed := c.signs(plan.Text(), c.member, second)
	if _, err := node.Recover(c.config(best), signed); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		c.start((best + i) % len(c.nodes))
	}
	c.whole(0, 1, 2)
	for i := range puts {
		r, err := cl.Read(ctx, false, fmt.Sprintf("kv/%d", i))
		if err != nil || string(r.GetValues()[0].GetValue()) != "kept" {
			t.Fatalf("kv/%d was acknowledged, and is %v: %v", i, r, err)
		}
	}
	if _, err := cl.Audit(ctx, nil); err != nil {
		t.Errorf("audit: %v", err)
	}
	known := "recovery/" + hex.EncodeToString(plan.Disk[:])
	for recorded := false; !recorded && ctx.Err() == nil; {
		r, err := cl.Read(ctx, false, known)
		recorded = err == nil && string(r.GetValues()[0].GetValue()) == string(signed)
	}

	if err := c.end(best, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Recover(c.config(best), signed); !errors.Is(err, keystead.ReasonRecoveryMismatch) {
		t.Errorf("the same recovery once more: want recovery-mismatch, got %v", err)
	}
	c.start(best)
	c.whole(0, 1, 2)
}

// TestRecoveryToEmptyDisks: members reopen a domain from the one disk that is left. Both other
// nodes have lost theirs, and take its word, since each hears the other say that it has nothing.
func TestRecoveryToEmptyDisks(t *testing.T) {
	c := &cluster{t: t, dir: t.TempDir(), file: &client.Domain{}}
	for i := range 3 {
		name := fmt.Sprintf("n%d", i+1)
		c.file.Contacts = append(c.file.Contacts, c.prepare(name, "", filepath.Join(c.dir, name)))
	}
	c.seal()
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	cl := c.client("")
	if _, err := cl.Put(ctx, "kv/kept", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		_ = c.end(i, syscall.SIGKILL) // its status says that it was killed
	}
	best, plan := c.furthest()
	if _, err := node.Recover(c.config(best), c.signs(plan.Text(), c.member)); err != nil {
		t.Fatal(err)
	}
	for i := range c.nodes {
		if i == best {
			continue
		}
		for _, lost := range []string{"store", "store.before"} {
			if err := os.RemoveAll(filepath.Join(c.nodes[i].dir, lost)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range c.nodes {
		c.start(i)
	}
	c.whole(0, 1, 2)
	r, err := cl.Read(ctx, false, "kv/kept")
	if err != nil || string(r.GetValues()[0].GetValue()) != "kept" {
		t.Fatalf("%v: %v", r, err)
	}
}

// refuses hands in recoveries that the node must not take.
func (c *cluster) refuses(best int, plan node.Recovery, second key.Member) {
	c.t.Helper()
	stranger, err := key.NewMember(rand.Reader, "test.stranger")
	if err != nil {
		c.t.Fatal(err)
	}
	change := func(edit func(*node.Recovery)) []byte {
		other := plan
		edit(&other)
		return other.Text()
	}
	setting, err := (&admit.Setting{Domain: c.digest, Name: admit.LeaseSeconds, Value: 60}).Text()
	if err != nil {
		c.t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		signed []byte
		want   keystead.Reason
	}{
		"signed by nobody":         {plan.Text(), keystead.ReasonNoteUnsigned},
		"signed by one of two":     {c.signs(plan.Text(), c.member), keystead.ReasonThresholdMissing},
		"signed by one, twice":     {c.signs(plan.Text(), second, second), keystead.ReasonThresholdMissing},
		"signed by strangers":      {c.signs(plan.Text(), stranger), keystead.ReasonNoteUnsigned},
		"by one and a stranger":    {c.signs(plan.Text(), c.member, stranger), keystead.ReasonThresholdMissing},
		"altered after":            {[]byte(strings.Replace(string(c.signs(plan.Text(), c.member, second)), "last ", "last 1", 1)), keystead.ReasonNoteUnsigned},
		"another kind of text":     {c.signs(setting, c.member, second), keystead.ReasonNoteUnsigned},
		"of another domain":        {c.signs(change(func(r *node.Recovery) { r.Domain[0] ^= 1 }), c.member, second), keystead.ReasonDomainMismatch},
		"under another roster":     {c.signs(change(func(r *node.Recovery) { r.Roster++ }), c.member, second), keystead.ReasonRecoveryMismatch},
		"from another node's disk": {c.signs(change(func(r *node.Recovery) { r.Node = "n9" }), c.member, second), keystead.ReasonRecoveryMismatch},
		"from an older disk":       {c.signs(change(func(r *node.Recovery) { r.Last-- }), c.member, second), keystead.ReasonRecoveryMismatch},
		"from a disk like it":      {c.signs(change(func(r *node.Recovery) { r.Disk[0] ^= 1 }), c.member, second), keystead.ReasonRecoveryMismatch},
	} {
		_, err := node.Recover(c.config(best), tc.signed)
		demand(c.t, name, err, tc.want)
	}
	if again, err := node.PlanRecovery(c.config(best)); err != nil || again != plan {
		c.t.Errorf("a refused recovery left the disk as %v, %v; it was %v", again, err, plan)
	}
}

// furthest returns the node whose log goes on longest, and its plan.
func (c *cluster) furthest() (best int, plan node.Recovery) {
	c.t.Helper()
	for i := range c.nodes {
		p, err := node.PlanRecovery(c.config(i))
		if err != nil {
			c.t.Fatal(err)
		}
		if cmp.Or(cmp.Compare(p.Term, plan.Term), cmp.Compare(p.Last, plan.Last)) > 0 {
			best, plan = i, p
		}
	}
	return best, plan
}

func (c *cluster) config(i int) node.Config {
	c.t.Helper()
	cfg, err := node.ReadConfig(filepath.Join(c.nodes[i].dir, node.ConfigFile))
	if err != nil {
		c.t.Fatal(err)
	}
	return cfg
}

// signs signs a text as members, one after the other.
func (c *cluster) signs(text []byte, members ...key.Member) []byte {
	c.t.Helper()
	for i, m := range members {
		var err error
		if i == 0 {
			text, err = m.Sign(text)
		} else {
			text, err = m.Cosign(text)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return slices.Clone(text)
}

// says waits until the log of a node has the words.
func (c *cluster) says(i int, words string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if b, err := os.ReadFile(c.nodes[i].dir + ".log"); err == nil && strings.Contains(string(b), words) {
			return
		}
	}
	c.t.Fatalf("%s does not say %q", c.nodes[i].place.Name, words)
}

func FuzzParseRecovery(f *testing.F) {
	f.Add(node.Recovery{Domain: keystead.Sum(nil), Roster: 1, Node: "n1", Term: 2, Last: 3, Disk: keystead.Sum(nil)}.Text())
	f.Add([]byte("keystead-recovery/1\ndomain x\nroster 0\nnode \nterm 01\nlast 1\ndisk y\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := node.ParseRecovery(text); err == nil && string(r.Text()) != string(text) {
			t.Errorf("%q was read as %+v", text, r)
		}
	})
}
