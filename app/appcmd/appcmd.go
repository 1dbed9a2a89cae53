// Package appcmd is applications' presence on the command line: keystead app, with which an
// owner makes roots and certificates and signs programs, and keystead run, which launches one.
package appcmd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/app"
	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/conf"
)

// Commands are those of applications.
func Commands(a *cli.App) []cli.Placed {
	return []cli.Placed{{Command: noun(a)}, {Command: run(a)}}
}

func noun(a *cli.App) *cobra.Command {
	return a.Noun("app", "Applications: roots, certificates, and programs that carry their signature",
		`An application is a program that carries a signature in itself: by a certificate of its own,
which a root of the domain issued. Agents measure the memory of the process that asks, and nodes
hold what they measured to that signature before a key is released. docs/guide/applications.md goes
through all of it, docs/spec/application.md has the formats.`,
		`  keystead app root create fleet --key root.key --out root.pem
  keystead app issue billing --root root.pem --root-key root.key --key billing.key --out billing.pem
  keystead app sign billing --name billing --cert billing.pem --key billing.key --out billing.signed
  keystead app verify billing.signed --roots apps.txt`,
		root(a), issue(a), sign(a), verify(a), revoke(a), list(a),
	)
}

const (
	keyType         = "PRIVATE KEY" // PKCS #8
	certificateType = "CERTIFICATE"
	maxFile         = 64 << 10 // bytes of a key or a certificate
)

// readKey reads a private key from a file that nobody else may read.
func readKey(file string) (*ecdsa.PrivateKey, error) {
	text, err := conf.ReadSecret(file)
	if err != nil {
		return nil, cli.Misuse(err, "keystead app root create and keystead app issue make keys")
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != keyType {
		return nil, cli.Misuse(fmt.Errorf("%s: holds no private key (PEM, PKCS #8)", file), "")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, cli.Misuse(fmt.Errorf("%s: %w", file, err), "")
	}
	k, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, cli.Misuse(fmt.Errorf("%s: want a key of ECDSA on P-256, it is a %T", file, parsed), "")
	}
	return k, nil
}

// makeKey makes a private key and writes it to a new file.
func makeKey(file string) (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return k, cli.CreateFile(file, pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), 0o600)
}

// keyOf reads the key of a file, and makes it where there is none yet. Undo removes what was
// made.
func keyOf(file string) (k *ecdsa.PrivateKey, undo func() error, err error) {
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		k, err := makeKey(file)
		return k, func() error { return os.Remove(file) }, err
	}
	k, err = readKey(file)
	return k, func() error { return nil }, err
}

func readCertificate(file string) ([]byte, error) {
	text, err := cli.ReadFile(file, maxFile)
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != certificateType || len(rest) > 0 || !bytes.HasPrefix(text, []byte("-----BEGIN")) {
		return nil, cli.Misuse(fmt.Errorf("%s: want one certificate (PEM)", file), "")
	}
	return block.Bytes, nil
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateType, Bytes: der})
}

// validity counts from a minute ago: clocks differ.
func validity(from time.Time, lasts time.Duration) (app.Validity, error) {
	from = from.UTC().Truncate(time.Second)
	if lasts < time.Second {
		return app.Validity{}, cli.Misuse(fmt.Errorf("--for %v is no time that a certificate can count", lasts), "720h is 30 days")
	}
	return app.Validity{From: from.Add(-time.Minute), Until: from.Add(lasts)}, nil
}
