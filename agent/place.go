package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/client"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/receipt"
)

// Names of an agent's files in its directory.
const (
	ConfigFile = "agent.toml"
	DomainFile = "domain.json" // genesis entry and contacts of nodes
	tlsFile    = "tls.pem"     // the host's key, PKCS #8
	lockFile   = "lock"
)

// Place is what a new agent's directory is made for. Empty fields are the defaults of
// the configuration.
type Place struct {
	Host   string
	Domain *client.Domain
	Digest keystead.Digest
	TPM    TPMConfig
	TEE    bool // a TEE speaks alone
	Socket string
	Systems
}

// Prepare makes an agent's directory: key, domain file, configuration. It overwrites
// nothing, and leaves a directory that it can not finish as it was.
func Prepare(dir string, p Place) (err error) {
	undo := conf.Making(dir)
	defer func() {
		if err != nil {
			undo()
		}
	}()
	if !hostName(p.Host) {
		return fmt.Errorf("a host's name is 1 to 64 of a-z, 0-9, dot and dash, and not %q", p.Host)
	}
	entry, err := receipt.NoteEntry(p.Domain.Genesis)
	if err != nil {
		return err
	}
	if _, err := receipt.VerifyGenesis(entry, p.Digest); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := loadKey(dir); errors.Is(err, fs.ErrNotExist) {
		err = makeKey(dir)
		if err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := writeNew(filepath.Join(dir, DomainFile), p.Domain.Encode(), 0o644); err != nil {
		return err
	}
	return writeNew(filepath.Join(dir, ConfigFile), []byte(p.config()), 0o644)
}

// config is the manual with the place's values in it.
func (p *Place) config() string {
	text := ExampleConfig
	set := func(table, field, value string) {
		if value == "" {
			return
		}
		at := 0
		if table != "" {
			at = strings.Index(text, "\n["+table+"]\n")
		}
		line := regexp.MustCompile(`(?m)^` + field + ` = .*$`).FindStringIndex(text[at:])
		text = text[:at+line[0]] + fmt.Sprintf("%s = %q", field, value) + text[at+line[1]:]
	}
	set("", "dir", ".")
	set("", "domain", p.Digest.String())
	set("", "host", p.Host)
	set("tpm", "path", p.TPM.Path)
	set("tpm", "root", p.TPM.Root)
	set("tpm", "note", p.TPM.Note)
	for _, e := range p.entries() {
		set(e.table, e.field, e.value)
	}
	set("socket", "path", p.Socket)
	if p.TEE {
		text = strings.Replace(text, "\nalone = false\n", "\nalone = true\n", 1)
	}
	return text
}

func hostName(s string) bool { return receipt.ValidName(s) }

// makeKey makes the host's TLS key: P-256, which every TLS and SPIFFE library takes.
func makeKey(dir string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return err
	}
	return writeNew(filepath.Join(dir, tlsFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

// identity is the host's key, with a certificate that says nothing.
type identity struct {
	_      [0]func()       // not comparable
	cert   tls.Certificate // for connections
	signer crypto.Signer   // of statements that the agent composed
	public []byte          // PKIX DER
}

// String keeps the private key out of logs.
func (*identity) String() string { return "[TLS key of a host]" }

// GoString keeps it out of logs, too.
func (i *identity) GoString() string { return i.String() }

// loadKey reads the host's key from a file that nobody else may read.
func loadKey(dir string) (*identity, error) {
	path := filepath.Join(dir, tlsFile)
	text, err := conf.ReadSecret(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: has no PEM block", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: a %T can not sign", path, parsed)
	}
	i := &identity{signer: signer}
	if i.public, err = x509.MarshalPKIXPublicKey(signer.Public()); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "keystead host"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no expiry
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	i.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: signer}
	return i, err
}

// writeNew writes and syncs a file that must not exist.
func writeNew(path string, content []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// lock keeps a second agent out of the directory, until the file is closed.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another agent runs in %s: %w", dir, err), f.Close())
	}
	return f, nil
}
