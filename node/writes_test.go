package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/node"
)

// TestWritesAreClosed has clients write to a node that lists one writer: who shows no key
// and who shows another is refused, by each way in, and may read; the writer writes.
func TestWritesAreClosed(t *testing.T) {
	t.Parallel()
	var ids []*node.Identity
	for range 2 {
		id, err := node.NewIdentity(context.Background(), filepath.Join(t.TempDir(), "client"), nil)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	c := found(t, 1, loopback)
	path := filepath.Join(c.nodes[0].dir, node.ConfigFile)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	closed := strings.Replace(string(text), "open-writes = true\n", fmt.Sprintf("writers = [%q]\n", ids[0].Pin), 1)
	if closed == string(text) {
		t.Fatalf("the configuration does not open writes:\n%s", text)
	}
	if err := os.WriteFile(path, []byte(closed), 0o600); err != nil {
		t.Fatal(err)
	}
	c.startAll()
	ctx, cancel := context.WithTimeout(context.Background(), 3*patience)
	defer cancel()
	open := func(opts client.Options) *client.Client {
		cl, err := client.Open(c.file, c.digest, opts)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cl.Close)
		return cl
	}
	writer := open(client.Options{Certificate: &ids[0].TLS})
	if _, err := writer.Put(ctx, "kv/a", []byte("by the writer")); err != nil {
		t.Fatalf("the writer: %v", err)
	}
	for name, opts := range map[string]client.Options{"no key": {}, "another key": {Certificate: &ids[1].TLS}} {
		other := open(opts)
		_, err := other.Put(ctx, "kv/a", []byte("by a stranger"))
		var deny *keystead.DenyError
		if !errors.As(err, &deny) || deny.Findings[0].Reason != keystead.ReasonWriterUnlisted {
			t.Errorf("%s: want %s, got %v", name, keystead.ReasonWriterUnlisted, err)
		} else if opts.Certificate != nil && deny.Findings[0].Got != ids[1].Pin.String() {
			t.Errorf("%s: the refusal names %s, not the key that was shown", name, deny.Findings[0].Got)
		}
		r, err := other.Read(ctx, false, "kv/a")
		if err != nil || string(r.GetValues()[0].GetValue()) != "by the writer" {
			t.Errorf("%s reads %v, %v", name, r, err)
		}
	}
	refused := make(chan error, 1)
	stream := open(client.Options{}).Pipeline(ctx)
	tx := put("kv/a", []byte("by a stranger"))
	tx.RequestId = client.NewRequestID()
	err = stream.Send([]*apiv1.Transaction{tx}, func(_ *apiv1.Outcome, err error) { refused <- err })
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-refused:
		if !errors.Is(err, keystead.ReasonWriterUnlisted) {
			t.Errorf("in a stream: want %s, got %v", keystead.ReasonWriterUnlisted, err)
		}
	case <-ctx.Done():
		t.Error("a stream is not answered")
	}
}
