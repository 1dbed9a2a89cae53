package node

import (
	"github.com/keystead/keystead/app/appnode"
	"github.com/keystead/keystead/ledger/contract/contractnode"
	"github.com/keystead/keystead/part"
	"github.com/keystead/keystead/watch/watchnode"
)

// Systems are the configurations of the systems on a node.
type Systems struct {
	Webhook watchnode.WebhookConfig `toml:"webhook"`
}

// check reports what is wrong with them.
func (s *Systems) check() error { return s.Webhook.Check() }

// parts returns the systems on a node, in the order in which they start.
func parts(c *Systems, g part.Grants) []part.Part {
	return []part.Part{watchnode.New(c.Webhook), appnode.New(g), contractnode.New()}
}
