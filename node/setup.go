package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/receipt"
)

// ConfigFile is the name of a node's configuration in its directory, unless it is
// kept elsewhere.
const ConfigFile = "keystead.toml"

// EvidenceFile is the name of the file beside a new node's contact that shows its machine as it was
// when the directory was made, in answer to the contact: by it whoever adds the node sees first
// whether others will let it in. It is read by nobody else.
const EvidenceFile = "evidence"

// EvidenceBinding is what the evidence beside a contact answers.
func EvidenceBinding(contact []byte) evidence.Binding {
	d := keystead.Sum(contact)
	return evidence.Binding{Purpose: evidence.PurposeVerify, Nonce: d[:]}
}

// A Place is where a node is to be found.
type Place struct {
	Name  string
	Peer  string // host:port for the other nodes
	API   string // host:port for clients
	Ops   string // host:port for health and metrics
	Plain bool   // API without TLS, on loopback

	Writers    []keystead.Digest // keys of clients that may write
	OpenWrites bool              // anybody may

	TPM  string // path of the TPM, or of a link to it; "" for none
	Root string // below which logs are read; "" for /
	Note string // what its evidence says of itself
}

// Prepare makes a node's directory: keys, signed contact, and a configuration that
// lacks only the domain. It returns the contact, which names the attestation key of
// the TPM. A directory that can not be finished is left as it was.
func Prepare(ctx context.Context, dir string, p Place) (contact []byte, err error) {
	undo := conf.Making(dir)
	defer func() {
		if err != nil {
			undo()
		}
	}()
	if _, err := ParseConfig(append(fmt.Appendf(nil, "domain = %q\n", keystead.Sum(nil)), p.config()...)); err != nil {
		return nil, err
	}
	if !receipt.ValidName(p.Name) {
		return nil, fmt.Errorf("a node's name is 1 to 64 of a-z, 0-9, dot and dash, and not %q", p.Name)
	}
	tpm, ak, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	if tpm != nil {
		defer tpm.Close()
	}
	id, err := NewIdentity(ctx, dir, tpm)
	if err != nil {
		return nil, err
	}
	scheme := "https://"
	if p.Plain {
		scheme = "http://"
	}
	c := client.Contact{Name: p.Name, Key: id.Node.Public(), AK: ak, TLS: id.Pin, Peer: p.Peer, API: scheme + p.API}
	signed := c.Sign(id.Node)
	if _, err := client.OpenContact(signed); err != nil {
		return nil, err
	}
	if err := conf.WriteNew(filepath.Join(dir, contactFile), signed); err != nil {
		return nil, err
	}
	if tpm != nil {
		if err := p.show(ctx, dir, tpm, signed); err != nil {
			return nil, err
		}
	}
	return signed, conf.WriteNew(filepath.Join(dir, ConfigFile), p.config())
}

// show leaves the machine's evidence beside the contact, as far as its logs can be read: what is
// lacking is found by who adds the node.
func (p *Place) show(ctx context.Context, dir string, tpm *collect.TPM, contact []byte) error {
	bundle, _, err := collect.NewProver(tpm, collect.Machine{Root: cmp.Or(p.Root, "/")}, collect.AKECC, p.Note).Prove(ctx, EvidenceBinding(contact), nil)
	if err != nil {
		return nil
	}
	return conf.WriteNew(filepath.Join(dir, EvidenceFile), bundle.Bytes())
}

// config is the place's configuration, which lacks only the domain.
func (p *Place) config() []byte {
	text := fmt.Appendf(nil, "# Node %s. keystead node run --example-config explains every field.\n# Relative to this file: name the directory in full if you move the file elsewhere.\ndir = \".\"\n\n[peer]\nlisten = %q\n\n[api]\nlisten = %q\nplain = %v\n%s\n[ops]\nlisten = %q\n",
		p.Name, p.Peer, p.API, p.Plain, p.writes(), p.Ops)
	if p.TPM != "" {
		text = fmt.Appendf(text, "\n[tpm]\npath = %q\nroot = %q\nnote = %q\n", p.TPM, cmp.Or(p.Root, "/"), p.Note)
	}
	return text
}

// writes are the lines that say who may write; none where nobody may.
func (p *Place) writes() string {
	switch {
	case p.OpenWrites:
		return "open-writes = true\n"
	case len(p.Writers) > 0:
		return fmt.Sprintf("writers = %q\n", p.Writers)
	}
	return ""
}

// open opens the place's TPM, if it has one, and makes its paths good from anywhere.
func (p *Place) open(ctx context.Context) (tpm *collect.TPM, ak key.AKDigest, err error) {
	if p.TPM == "" {
		return nil, ak, nil
	}
	for _, path := range []*string{&p.TPM, &p.Root} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, ak, err
		}
	}
	if tpm, err = openDevice(p.TPM); err != nil {
		return nil, ak, err
	}
	public, err := tpm.AK(ctx, collect.AKECC)
	if err != nil {
		return nil, ak, errors.Join(err, tpm.Close())
	}
	return tpm, key.DigestAK(public), nil
}

// Enter puts a domain file into a node's directory and the domain's digest into
// its configuration. The genesis entry must be signed by its members.
func Enter(dir string, file *client.Domain, domain keystead.Digest) error {
	entry, err := receipt.NoteEntry(file.Genesis)
	if err != nil {
		return err
	}
	if _, err := receipt.VerifyGenesis(entry, domain); err != nil {
		return err
	}
	config := filepath.Join(dir, ConfigFile)
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("domain = %q\n", domain)
	if c, err := ParseConfig(append([]byte(line), text...)); err != nil {
		if c, err = ParseConfig(text); err == nil && c.Domain == domain {
			return nil // done before
		}
		return fmt.Errorf("%s: it has a domain already, or: %w", config, err)
	}
	if err := conf.WriteNew(filepath.Join(dir, domainFile), file.Encode()); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.WriteFile(config+".new", append([]byte(line), text...), 0o600); err != nil {
		return err
	}
	return os.Rename(config+".new", config)
}
