package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/attest"
	"github.com/keystead/keystead/internal/cli"
)

// ledgerKey makes what a client shows in TLS to be let write.
func (a *app) ledgerKey() *cobra.Command {
	return &cobra.Command{
		Use:   "key FILE",
		Short: "Make a key by which nodes let a client write",
		Long: `Makes a TLS key with its certificate in FILE, unless one is there, and prints its digest.
Nodes let whoever shows it write under kv/ once their configuration lists the digest
(api.writers, keystead node init --writer); ledger put and delete show it with --writer.`,
		Example: `  keystead ledger key writer.pem`,
		Args:    cli.Arguments("FILE"),
		RunE: func(_ *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); errors.Is(err, fs.ErrNotExist) {
				if err := makeWriter(args[0]); err != nil {
					return err
				}
			}
			c, err := cli.ReadWriter(args[0])
			if err != nil {
				return err
			}
			answer := struct {
				Digest keystead.Digest `json:"digest"`
				File   string          `json:"file"`
			}{keystead.Sum(c.Leaf.RawSubjectPublicKeyInfo), args[0]}
			return a.Answer(answer, func(w io.Writer) { fmt.Fprintln(w, answer.Digest) })
		},
	}
}

func makeWriter(file string) error {
	c, err := attest.NewCertificate()
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, b := range []*pem.Block{{Type: "PRIVATE KEY", Bytes: der}, {Type: "CERTIFICATE", Bytes: c.Certificate[0]}} {
		if err := pem.Encode(&text, b); err != nil {
			return err
		}
	}
	return cli.CreateFile(file, text.Bytes(), 0o600)
}
