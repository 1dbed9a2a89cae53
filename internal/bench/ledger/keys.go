package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
)

// keysBench measures rounds of agreement; what releases take, the bench of hosts measures.
func keysBench(t *table, program, dir string, run func(config string) (*exec.Cmd, error), length time.Duration) error {
	d, err := startDomain(program, dir, 17701, run)
	if err != nil {
		return err
	}
	defer d.stop()
	cs, err := d.clients()
	if err != nil {
		return err
	}
	one, err := d.rounds(cs[0], "one", 1, length)
	if err != nil {
		return err
	}
	t.row("a key by agreement of three nodes, from specified to agreed", fmt.Sprintf("p50 %s", ms(one.quantile(.5))), "", "")
	many, err := d.rounds(cs[0], "many", 16, length)
	if err != nil {
		return err
	}
	t.row("keys by agreement, 16 at a time", fmt.Sprintf("%.0f/s", many.rate()), "", "")
	return nil
}

// rounds has keys specified and agreed on, that many at a time.
func (d *domain) rounds(c *client.Client, name string, workers int, length time.Duration) (*figures, error) {
	raw, err := os.ReadFile(filepath.Join(d.dir, "d", "member.key"))
	if err != nil {
		return nil, err
	}
	m, err := key.ParseMember(raw)
	if err != nil {
		return nil, err
	}
	f := many(workers, length, func(n int) (int, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		s := keyring.Spec{Domain: d.digest, Name: fmt.Sprintf("%s-%d", name, n), Version: 1, Level: keyring.LevelNone,
			Policy: []byte("keystead-policy/1\nname any\nminimum-assurance test\nrule host\n  require release.host == \"bench\"\n  otherwise no\n")}
		text, err := s.Text()
		if err != nil {
			return 0, err
		}
		signed, err := m.Sign(text)
		if err != nil {
			return 0, err
		}
		if _, err := c.Specify(ctx, signed); err != nil {
			return 0, err
		}
		_, err = c.AwaitKey(ctx, s.Name, 1)
		return 1, err
	})
	if f.failed > 0 || f.count == 0 {
		return f, fmt.Errorf("rounds: %d failed: %w", f.failed, f.firstErr)
	}
	return f, nil
}
