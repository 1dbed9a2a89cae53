package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	apiv1 "github.com/keystead/keystead/api/v1"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/keyring"
	"github.com/keystead/keystead/ledger"
	"github.com/keystead/keystead/node"
)

// everybody is the lease of whoever asks: what is measured is the release, not who
// was admitted.
type everybody struct{}

func (everybody) Host() string     { return "bench" }
func (everybody) Role() string     { return "host" }
func (everybody) At(uint64) error  { return nil }
func (everybody) Evidence() uint64 { return 0 }

// runReleasing is a node that releases keys to everybody.
func runReleasing(config string) error {
	cfg, err := node.ReadConfig(config)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	n, err := node.Start(ctx, cfg, node.Options{Log: cfg.Log.Logger(os.Stderr), Lease: func(string) node.LeaseOf {
		return func(ledger.View, uint64) (keyring.Lease, evidence.Claims, error) {
			return everybody{}, evidence.Claims{Assurance: evidence.AssuranceTest.String()}, nil
		}
	}})
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-n.Done():
	}
	return n.Close()
}

// keysBench measures rounds and releases of a domain whose nodes release to everybody.
func keysBench(t *table, program, dir string, length time.Duration) error {
	d, err := startDomain(program, dir, 17701, itself("-releasing"))
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
	f := d.releases(cs, "one-1", 64, length)
	if f.failed > 0 || f.count == 0 {
		return fmt.Errorf("releases: %d failed: %w", f.failed, f.firstErr)
	}
	t.row("releases, each with ReadIndex", fmt.Sprintf("%.0f/s, p50 %s, p99 %s", f.rate(), ms(f.quantile(.5)), ms(f.quantile(.99))), "1000/s", "")
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

// releases asks all nodes for one key.
func (d *domain) releases(cs []*client.Client, name string, workers int, length time.Duration) *figures {
	return many(workers, length, func(n int) (int, error) {
		r, err := cs[n%3].ReleaseKey(context.Background(), &apiv1.ReleaseRequest{Host: "bench", Key: name})
		if err == nil && len(r.GetSecret()) != keyring.SecretSize {
			err = fmt.Errorf("%s has %d bytes", name, len(r.GetSecret()))
		}
		return 1, err
	})
}
