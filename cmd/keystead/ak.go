package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cli"
)

// ak: which TPM an attestation key lives in.
func (a *app) ak() *cobra.Command {
	return a.Noun("ak", "Bind a host's attestation key to its TPM, once",
		`A quote is worth as much as is known of its key. Credential activation (TPM 2.0 Part 1, 24)
shows that the key lives in the TPM that a vendor certified: the verifier encrypts a secret to the
TPM's endorsement key, which opens it only beside that attestation key. Files go back and forth:
show and activate run on the host, challenge and accept on the verifier.`,
		`  keystead ak show > host.keys
  keystead ak challenge --ek-root vendors.pem --secret host.secret host.keys > host.challenge
  keystead ak activate host.challenge > host.answer
  keystead ak accept --secret host.secret host.answer > host.ak`,
		a.akShow(),
		a.akChallenge(),
		a.akActivate(),
		a.akAccept(),
	)
}

// The files of the exchange. Byte strings are base64; keys are TPMT_PUBLIC.
type (
	akKeys struct {
		Format        string   `json:"format"` // keystead-ak-keys/1
		AKPublic      []byte   `json:"ak_public"`
		EKPublic      []byte   `json:"ek_public"`
		EKCertificate [][]byte `json:"ek_certificate"`
	}
	akChallenge struct {
		Format          string `json:"format"` // keystead-ak-challenge/1
		CredentialBlob  []byte `json:"credential_blob"`
		EncryptedSecret []byte `json:"encrypted_secret"`
	}
	akSecret struct {
		Format string `json:"format"` // keystead-ak-secret/1; the verifier keeps it to itself
		Secret []byte `json:"secret"`
		Keys   akKeys `json:"keys"`
	}
	akAnswer struct {
		Format string `json:"format"` // keystead-ak-answer/1
		Secret []byte `json:"secret"`
	}
)

const (
	formatKeys      = "keystead-ak-keys/1"
	formatChallenge = "keystead-ak-challenge/1"
	formatSecret    = "keystead-ak-secret/1"
	formatAnswer    = "keystead-ak-answer/1"
)

func (k akKeys) evidence() evidence.TPMKeys {
	return evidence.TPMKeys{AKPublic: k.AKPublic, EKPublic: k.EKPublic, EKCertificate: k.EKCertificate}
}

// readExchange reads one of the exchange's files, strictly.
func readExchange(name, want string, into any, format *string) error {
	text, err := cli.ReadFile(name, 1<<20)
	if err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return cli.Misuse(fmt.Errorf("%s: %w", name, err), "want a file of format "+want)
	}
	if *format != want {
		return cli.Misuse(fmt.Errorf("%s: format is %.40q, want %s", name, *format, want), "keystead ak --help shows which file goes where")
	}
	return nil
}

// document answers with a JSON document, with and without --json.
func (a *app) document(v any) error {
	return a.Answer(v, func(w io.Writer) {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		cli.Must(e.Encode(v))
	})
}

// tpmFlags are those of every command that speaks to a TPM.
type tpmFlags struct {
	path string
	rsa  bool
}

func (f *tpmFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.path, "tpm", os.Getenv("KEYSTEAD_TPM"), "`PATH` of a TPM device or of a software TPM's socket (default: $KEYSTEAD_TPM, else the machine's own)")
	c.Flags().Lookup("tpm").DefValue = "" // help is the same everywhere
	c.Flags().BoolVar(&f.rsa, "rsa", false, "use an RSA attestation key, for TPMs without ECC")
}

func (f *tpmFlags) ak() collect.AKType {
	if f.rsa {
		return collect.AKRSA
	}
	return collect.AKECC
}

// tpmVerb makes a command of one that is given an open TPM.
func (a *app) tpmVerb(c *cobra.Command, run func(c *cobra.Command, tpm *collect.TPM, ak collect.AKType, args []string) error) *cobra.Command {
	var f tpmFlags
	f.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		tpm, err := collect.OpenTPM(f.path)
		if err != nil {
			return aboutMachine(err)
		}
		defer tpm.Close()
		return aboutMachine(run(c, tpm, f.ak(), args))
	}
	return c
}

func (a *app) akShow() *cobra.Command {
	return a.tpmVerb(&cobra.Command{
		Use:   "show",
		Short: "On the host: print the attestation key, the endorsement key and its certificate",
		Long: `Makes the attestation key, a restricted primary key of the endorsement hierarchy that is the same
each time and is not stored, and prints its public area with the TPM's endorsement key and
certificate.`,
		Example: `  keystead ak show > host.keys`,
		Args:    cobra.NoArgs,
	}, func(c *cobra.Command, tpm *collect.TPM, kind collect.AKType, _ []string) error {
		ek, err := tpm.EK(c.Context())
		if err != nil {
			return err
		}
		ak, err := tpm.AK(c.Context(), kind)
		if err != nil {
			return err
		}
		return a.document(akKeys{formatKeys, ak, ek.Public, ek.Chain})
	})
}

func (a *app) akChallenge() *cobra.Command {
	var roots, testRoots, intermediates []string
	var secretFile string
	c := &cobra.Command{
		Use:   "challenge --secret FILE KEYS",
		Short: "On the verifier: check the certificate and make a challenge",
		Long: `Verifies that the endorsement key's certificate chains to a given root and that the attestation
key is fit for its purpose, then encrypts a fresh secret so that only that TPM, holding that
attestation key, can open it. The secret is kept in a new file; the challenge goes to the host.`,
		Example: `  keystead ak challenge --ek-root vendors.pem --secret host.secret host.keys > host.challenge`,
		Args:    cli.Arguments("KEYS"),
	}
	c.Flags().StringArrayVar(&roots, "ek-root", nil, "PEM `FILE` of TPM vendors' roots; may be repeated")
	c.Flags().StringArrayVar(&testRoots, "test-ek-root", nil, "PEM `FILE` of roots of software TPMs; may be repeated")
	c.Flags().StringArrayVar(&intermediates, "ek-intermediate", nil, "PEM `FILE` of intermediates; may be repeated")
	c.Flags().StringVar(&secretFile, "secret", "", "new `FILE` for the secret")
	cli.Must(c.MarkFlagRequired("secret"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		var keys akKeys
		if err := readExchange(args[0], formatKeys, &keys, &keys.Format); err != nil {
			return err
		}
		r, err := readRoots(roots, testRoots, intermediates)
		if err != nil {
			return err
		}
		a.doubtRoots(r)
		made, err := appraise.Challenge(rand.Reader, keys.evidence(), r, time.Now())
		if err != nil {
			return err
		}
		kept, err := json.Marshal(akSecret{formatSecret, made.Secret, keys})
		if err != nil {
			return err
		}
		if err := cli.CreateFile(secretFile, append(kept, '\n'), 0o600); err != nil {
			return err
		}
		return a.document(akChallenge{formatChallenge, made.Credential.Blob, made.Credential.Secret})
	}
	return c
}

func (a *app) akActivate() *cobra.Command {
	return a.tpmVerb(&cobra.Command{
		Use:     "activate CHALLENGE",
		Short:   "On the host: have the TPM open the challenge",
		Long:    `Asks the TPM to activate the credential for its attestation key, and prints the answer.`,
		Example: `  keystead ak activate host.challenge > host.answer`,
		Args:    cli.Arguments("CHALLENGE"),
	}, func(c *cobra.Command, tpm *collect.TPM, kind collect.AKType, args []string) error {
		var challenge akChallenge
		if err := readExchange(args[0], formatChallenge, &challenge, &challenge.Format); err != nil {
			return err
		}
		secret, err := tpm.Activate(c.Context(), kind, challenge.CredentialBlob, challenge.EncryptedSecret)
		if err != nil {
			return err
		}
		return a.document(akAnswer{formatAnswer, secret})
	})
}

func (a *app) akAccept() *cobra.Command {
	var secretFile string
	c := &cobra.Command{
		Use:   "accept --secret FILE ANSWER",
		Short: "On the verifier: accept the key if the answer is the secret",
		Long: `Compares the host's answer with the secret and prints the accepted key, the file that
keystead evidence verify takes with --ak.`,
		Example: `  keystead ak accept --secret host.secret host.answer > host.ak`,
		Args:    cli.Arguments("ANSWER"),
	}
	c.Flags().StringVar(&secretFile, "secret", "", "`FILE` that ak challenge kept")
	cli.Must(c.MarkFlagRequired("secret"))
	c.RunE = func(_ *cobra.Command, args []string) error {
		var secret akSecret
		if err := readExchange(secretFile, formatSecret, &secret, &secret.Format); err != nil {
			return err
		}
		var answer akAnswer
		if err := readExchange(args[0], formatAnswer, &answer, &answer.Format); err != nil {
			return err
		}
		asked := appraise.Activation{Keys: secret.Keys.evidence(), Secret: secret.Secret}
		accepted, err := asked.Accept(answer.Secret, time.Now())
		if err != nil {
			return err
		}
		return a.document(accepted)
	}
	return c
}
