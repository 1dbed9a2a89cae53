package node

import (
	"errors"
	"testing"

	"github.com/keystead/keystead"
)

// TestNodesHaveRoom has machines announce as much evidence as there is room for, on
// connections that show no more: a node's is taken all the same, as far as one node may, and
// that of a host by the key of its last lease. Strangers' is little.
func TestNodesHaveRoom(t *testing.T) {
	const size = 2 << 20
	cfg := DefaultConfig().Evidence
	s := newShownRoom(&cfg)
	node, host := []byte("the key of a node"), []byte("the key of a host's last lease")
	room := s.room(func(pin keystead.Digest) string {
		if pin == keystead.Sum(node) {
			return "n2"
		}
		return ""
	}, func(pin keystead.Digest) bool { return pin == keystead.Sum(host) })
	var leave []func()
	full := func(key []byte) (n int) {
		for {
			end, err := room(key, size)
			if err != nil {
				if !errors.Is(err, keystead.ReasonOverloaded) {
					t.Error(err)
				}
				return n
			}
			leave = append(leave, end)
			n++
		}
	}
	if n := full([]byte("another key")); n == 0 || n > unknownMiB/2 {
		t.Errorf("%d connections of machines that nobody knows have room", n)
	}
	if n := full(host); n != cfg.MachineMiB/2 {
		t.Errorf("%d connections of a host have room, want %d", n, cfg.MachineMiB/2)
	}
	if n := full(node); n != cfg.NodeMiB/2 {
		t.Errorf("%d connections of a node have room, want %d", n, cfg.NodeMiB/2)
	}
	for _, end := range leave {
		end()
	}
	if n := full(node); n != cfg.NodeMiB/2 {
		t.Errorf("after all were made, %d of a node", n)
	}
}
