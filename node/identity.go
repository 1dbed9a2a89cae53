package node

import (
	"bytes"
	"context"
	"crypto"
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
	"time"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/conf"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/replica"
)

// Names of a node's files in its directory.
const (
	seedFile    = "node.seed"   // 32 bytes: the node's signing key, of a node without a TPM
	sealedFile  = "node.sealed" // the same, sealed to the TPM and its boot registers
	tlsFile     = "tls.pem"     // the node's TLS key, PKCS #8
	domainFile  = "domain.json" // genesis entry and contacts of the founders
	contactFile = "contact"     // where this node is found, signed by its key
	storeDir    = "store"       // log and state
	sealFile    = "shutdown"    // record of a clean shutdown
	startedFile = "started"     // the node has had a store
	objectsDir  = "objects"     // what is named by its digest
	archiveDir  = "archive"     // evidence of admissions, sealed

	recoveryFile = "recovery" // by which members reopened the domain from this node's disk, until it is on the ledger
)

// Identity is a node's own keys, as its directory has them: one signs for the domain,
// one is what its connections show. The latter is a name, by which people's clients
// know the node; where evidence is asked for it opens nothing by itself.
type Identity struct {
	Node *key.Node // nil if the directory has none: nodes that boot with a new key lose their first
	Peer *replica.NodeKey
	TLS  tls.Certificate // of Peer, for the API
	Pin  keystead.Digest // of Peer
}

// NewIdentity makes the keys in dir, which it creates. It overwrites nothing. With a
// TPM the signing key is sealed to it.
func NewIdentity(ctx context.Context, dir string, tpm *collect.TPM) (*Identity, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	peer, err := replica.GenerateNodeKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := peer.Marshal()
	if err != nil {
		return nil, err
	}
	seed := make([]byte, key.NodeSeedSize)
	_, _ = rand.Read(seed) // never fails
	name, secret := seedFile, seed
	if tpm != nil {
		name = sealedFile
		if secret, err = tpm.Seal(ctx, seed, evidence.SHA256, collect.BootPCRs()); err != nil {
			return nil, err
		}
	}
	if err := conf.WriteNew(filepath.Join(dir, name), secret); err != nil {
		return nil, err
	}
	if err := conf.WriteNew(filepath.Join(dir, tlsFile), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, err
	}
	return LoadIdentity(ctx, dir, tpm)
}

// LoadIdentity reads the keys in dir, and has the TPM open what is sealed. Files that
// others can read are refused.
func LoadIdentity(ctx context.Context, dir string, tpm *collect.TPM) (*Identity, error) {
	id, err := loadTLS(dir)
	if err != nil {
		return nil, err
	}
	id.Node, err = loadSigner(ctx, dir, tpm)
	return id, err
}

// loadTLS reads the key that connections show.
func loadTLS(dir string) (*Identity, error) {
	text, err := conf.ReadSecret(filepath.Join(dir, tlsFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s: has no PEM block", filepath.Join(dir, tlsFile))
	}
	peer, err := replica.ParseNodeKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, tlsFile), err)
	}
	cert, err := certificate(block.Bytes)
	return &Identity{Peer: peer, TLS: cert, Pin: peer.Digest()}, err
}

// loadSigner reads the signing key: nil if there is none.
func loadSigner(ctx context.Context, dir string, tpm *collect.TPM) (*key.Node, error) {
	path := filepath.Join(dir, sealedFile)
	seed, err := conf.ReadSecret(path)
	switch {
	case err == nil && tpm == nil:
		return nil, conf.Bad("tpm.path must be set: %s is sealed to a TPM", path)
	case err == nil:
		if seed, err = tpm.Unseal(ctx, seed); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	case errors.Is(err, fs.ErrNotExist):
		path = filepath.Join(dir, seedFile)
		if seed, err = conf.ReadSecret(path); errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if len(seed) != key.NodeSeedSize {
		return nil, fmt.Errorf("%s: has %d bytes, not %d", path, len(seed), key.NodeSeedSize)
	}
	return key.NewNode(bytes.NewReader(seed))
}

// certificate wraps a key into a certificate. Peers look at the key alone.
func certificate(pkcs8 []byte) (tls.Certificate, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return tls.Certificate{}, err
	}
	secret, ok := parsed.(crypto.Signer)
	if !ok {
		return tls.Certificate{}, fmt.Errorf("a %T can not sign", parsed)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "keystead node"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no expiry
		DNSNames:     []string{"node.keystead"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: secret}, err
}
