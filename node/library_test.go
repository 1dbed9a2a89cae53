package node_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
)

// TestObjectsOverTheAPI hands objects in and gets them back, from each node.
func TestObjectsOverTheAPI(t *testing.T) {
	t.Parallel()
	c := found(t, 3, loopback, "trust-disks=true")
	c.startAll()
	c.whole(0, 1, 2)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	d, err := c.client("").PutObject(ctx, content)
	if err != nil || d != keystead.Sum(content) {
		t.Fatalf("%v, %v", d, err)
	}
	for _, p := range c.nodes {
		if got, err := c.client(p.place.Name).GetObject(ctx, d); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", p.place.Name, len(got), err)
		}
	}
	if _, err := c.client("").GetObject(ctx, keystead.Sum([]byte("none"))); !errors.Is(err, keystead.ReasonObjectMissing) {
		t.Errorf("an object that nobody has: %v", err)
	}
	if _, err := c.client("").PutObject(ctx, make([]byte, client.MaxObject+1)); !errors.Is(err, keystead.ReasonTooLarge) {
		t.Errorf("an object that is too large: %v", err)
	}
	if empty, err := c.client("n2").PutObject(ctx, nil); err != nil || empty != keystead.Sum(nil) {
		t.Errorf("an empty object: %v, %v", empty, err)
	}
}
