package cli

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/receipt"
)

// ClientFlags are those of every command that talks to a domain.
type ClientFlags struct {
	Domain, Digest, Only string
	Writer               string // of those that write: a key to show
	Timeout              time.Duration
}

// Add adds the flags.
func (f *ClientFlags) Add(c *cobra.Command) {
	c.Flags().StringVar(&f.Domain, "domain", os.Getenv("KEYSTEAD_DOMAIN"), "the domain's `FILE` (default $KEYSTEAD_DOMAIN)")
	c.Flags().StringVar(&f.Digest, "digest", "", "the domain's `DIGEST`, if the file is not to be trusted for it")
	c.Flags().StringVar(&f.Only, "node", "", "ask the node of that `NAME` only")
	c.Flags().DurationVar(&f.Timeout, "timeout", 10*time.Second, "how long to try")
}

// MayWrite adds the flag of commands that write.
func (f *ClientFlags) MayWrite(c *cobra.Command) {
	c.Flags().StringVar(&f.Writer, "writer", os.Getenv("KEYSTEAD_WRITER"), "`FILE` with the key to show to nodes, of keystead ledger key (default $KEYSTEAD_WRITER)")
	c.Flags().Lookup("writer").DefValue = "" // help is the same everywhere
}

// File reads the domain file and returns the digest to hold the domain to.
func (f *ClientFlags) File() (*client.Domain, keystead.Digest, error) {
	if f.Domain == "" {
		return nil, keystead.Digest{}, Misuse(fmt.Errorf("--domain is required"), "keystead domain init makes the file")
	}
	raw, err := ReadFile(f.Domain, 1<<20)
	if err != nil {
		return nil, keystead.Digest{}, err
	}
	d, err := client.ParseDomain(raw)
	if err != nil {
		return nil, keystead.Digest{}, Misuse(fmt.Errorf("%s: %w", f.Domain, err), "")
	}
	if f.Digest != "" {
		digest, err := keystead.ParseDigest(f.Digest)
		if err != nil {
			return nil, digest, Misuse(err, "")
		}
		return d, digest, nil
	}
	entry, err := receipt.NoteEntry(d.Genesis)
	if err != nil {
		return nil, keystead.Digest{}, Misuse(fmt.Errorf("%s: %w", f.Domain, err), "keystead member sign signs the genesis entry")
	}
	return d, keystead.Sum(entry), nil
}

// Open returns a client of the domain and a context that ends with the timeout.
func (f *ClientFlags) Open() (*client.Client, context.Context, func(), error) {
	file, digest, err := f.File()
	if err != nil {
		return nil, nil, nil, err
	}
	opts := client.Options{Only: f.Only}
	if f.Writer != "" {
		own, err := ReadWriter(f.Writer)
		if err != nil {
			return nil, nil, nil, err
		}
		opts.Certificate = &own
	}
	c, err := client.Open(file, digest, opts)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.Timeout)
	return c, ctx, func() { cancel(); c.Close() }, nil
}

// ReadWriter reads a key with its certificate, from a file that nobody else may read.
func ReadWriter(file string) (tls.Certificate, error) {
	text, err := conf.ReadSecret(file)
	if err != nil {
		return tls.Certificate{}, Misuse(err, "keystead ledger key makes one")
	}
	c, err := tls.X509KeyPair(text, text)
	if err != nil {
		return c, Misuse(fmt.Errorf("%s: %w", file, err), "keystead ledger key makes one")
	}
	return c, nil
}
