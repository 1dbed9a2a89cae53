package replica_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/replica"
)

// lured is a transport to members of whom one answers whoever asks for an id with a made-up one.
type lured struct {
	replica.Transport
	liar  keystead.Digest
	asked chan struct{}
}

func (l *lured) Join(ctx context.Context, to replica.Member, r replica.JoinRequest) (replica.JoinReply, error) {
	if to.Key != l.liar {
		return l.Transport.Join(ctx, to, r)
	}
	select {
	case l.asked <- struct{}{}:
	default:
	}
	return replica.JoinReply{ID: 99, Members: []replica.Member{to, {ID: 99, Key: to.Key, Address: "127.0.0.1:1"}}}, nil
}

// tree returns the names below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

// TestOneMembersWordErasesNothing: a node that lost its memory asks for an id, and one of two
// others makes one up. The node does not go on as that one, and its store is as it was; once
// the other one answers as well it rejoins, and what it had is set aside until it votes.
func TestOneMembersWordErasesNothing(t *testing.T) {
	ms := group(t, 3, false)
	eventually(t, func() error { return put(ms[0], 1, "a", "b") })
	eventually(t, func() error { return expect(ms[2], "a", "b") })
	if err := ms[2].node.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ms[2].dir + "/sealed"); err != nil {
		t.Fatal(err)
	}
	data := ms[2].dir + "/data"
	state := regexp.MustCompile(`/state-\d+ `).FindString(tree(t, data))
	peers := []replica.Member{ms[0].member(), ms[1].member()}
	l := &lured{liar: ms[0].key.Digest(), asked: make(chan struct{}, 1)}
	options := func() replica.Options {
		ms[2].listen(ms[2].address)
		o := ms[2].options(nil, peers)
		o.Others = func() int { return 2 }
		o.Sign = func(m []byte, _ bool) (*replica.Asked, error) { return ms[2].key.Sign(m) }
		connect := o.Connect
		o.Connect = func(h replica.Handler) (replica.Transport, error) {
			var err error
			l.Transport, err = connect(h)
			return l, err
		}
		return o
	}
	if err := ms[1].node.Close(); err != nil { // so that the liar alone answers
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for range 3 { // the node asked again after the first lie
			<-l.asked
		}
		cancel()
	}()
	if n, err := replica.Start(ctx, options()); err == nil {
		n.Close()
		t.Fatal("the node went on as the member that one other made up")
	} else if !errors.Is(err, keystead.ReasonNoQuorum) {
		t.Errorf("want no-quorum, got %v", err)
	}
	if after := tree(t, data); state == "" || !strings.Contains(after, state) || tree(t, data+".before") != "" {
		t.Errorf("the state was%s, and the store is now\n%s, with %q set aside", state, after, tree(t, data+".before"))
	}
	ms[1].listen(ms[1].address)
	ms[1].start(nil, nil)
	eventually(t, func() error { return put(ms[1], 2, "c", "d") })
	l.liar = keystead.Digest{}
	ctx, cancel = context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := replica.Start(ctx, options())
	if err != nil {
		t.Fatal(err)
	}
	ms[2].run(n)
	eventually(t, func() error { return expect(ms[2], "c", "d") })
	eventually(t, func() error {
		if names := tree(t, data+".before"); names != "" {
			return errors.New("still set aside: " + names)
		}
		return nil
	})
}

// TestStoreSetAside: while a node that was given an id does not vote yet, its store of before is
// there, and a recovery goes on from it.
func TestStoreSetAside(t *testing.T) {
	ms := group(t, 3, false)
	eventually(t, func() error { return put(ms[0], 1, "a", "b") })
	eventually(t, func() error { return expect(ms[2], "a", "b") })
	peers := []replica.Member{ms[0].member(), ms[1].member()}
	if err := ms[2].node.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(ms[2].dir + "/sealed"); err != nil {
		t.Fatal(err)
	}
	ms[2].listen(ms[2].address)
	o := ms[2].options(nil, peers)
	liar := &lured{liar: ms[0].key.Digest(), asked: make(chan struct{}, 9)}
	connect := o.Connect
	o.Connect = func(h replica.Handler) (t replica.Transport, err error) {
		liar.Transport, err = connect(h)
		return liar, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := replica.Start(ctx, o) // one member's word is enough for it, and is a lie
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond) // ticks of a node that nobody hears; nothing is to happen
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	data := ms[2].dir + "/data"
	if !strings.Contains(tree(t, data+".before"), "/log/") {
		t.Fatalf("nothing is set aside: %q", tree(t, data+".before"))
	}
	for _, m := range ms[:2] {
		if err := m.node.Close(); err != nil {
			t.Fatal(err)
		}
	}
	from, err := replica.Aside(o.Store.FS, data)
	if err != nil || from != data+".before" {
		t.Fatalf("a recovery goes on from %q, %v", from, err)
	}
	o.Store.Dir = from
	if err := replica.Recover(o.Store, o.Seal, ms[2].key.Digest(), func(replica.RecoveryPlan) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := replica.PutBack(o.Store.FS, data); err != nil {
		t.Fatal(err)
	}
	ms[2].listen(ms[2].address)
	ms[2].start(nil, nil)
	eventually(t, func() error { return expect(ms[2], "a", "b") })
	if names := tree(t, data+".before"); names != "" {
		t.Errorf("still set aside: %q", names)
	}
}
