package client

import (
	"context"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/admit"
	"github.com/keystead/keystead/receipt"
)

// Terms returns the text of the terms in force for a role, or nil if there are none: those
// that members decided last, or the founding ones that the genesis entry names. That there
// are none later is the word of the node that answers.
func (c *Client) Terms(ctx context.Context, role string, genesis *receipt.Genesis) ([]byte, error) {
	s, err := c.State(ctx, []string{admit.TypeTerms + "/" + role}, nil)
	if err != nil {
		return nil, err
	}
	if v := s.GetValues()[0]; v.GetVersion() != 0 {
		return v.GetValue(), nil
	}
	founding := genesis.Setting(admit.FoundingSetting(role))
	if founding == "" {
		return nil, nil
	}
	d, err := keystead.ParseDigest("sha256:" + founding)
	if err != nil {
		return nil, err
	}
	return c.GetObject(ctx, d)
}

// Denied reports of each subject whether members have it on the deny list, as the node that
// answers says.
func (c *Client) Denied(ctx context.Context, subjects ...string) ([]bool, error) {
	var keys []string
	for _, s := range subjects {
		keys = append(keys, admit.TypeDenial+"/"+s)
	}
	s, err := c.State(ctx, keys, nil)
	if err != nil {
		return nil, err
	}
	var out []bool
	for _, v := range s.GetValues() {
		out = append(out, v.GetVersion() != 0)
	}
	return out, nil
}
