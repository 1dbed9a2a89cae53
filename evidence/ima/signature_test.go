package ima

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestSignedByEvmctl: signatures that the real tool made, by RSA and ECDSA keys.
func TestSignedByEvmctl(t *testing.T) {
	dir := t.TempDir()
	content := []byte("a program\n")
	file := filepath.Join(dir, "program")
	if err := os.WriteFile(file, content, 0o755); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, private := range map[string]crypto.Signer{"RSA": r, "ECDSA": e} {
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		keyFile := filepath.Join(dir, "key.pem")
		if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("evmctl", "ima_sign", "--hashalgo", "sha256", "--sigfile", "--key", keyFile, file).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
		sig, err := os.ReadFile(file + ".sig")
		if err != nil {
			t.Fatal(err)
		}
		if sig[0] == digsigVersion { // the file leaves the type of the attribute out
			sig = append([]byte{digsigType}, sig...)
		}
		key, err := NewKey(private.Public())
		if err != nil {
			t.Fatal(err)
		}
		stranger, err := NewKey(other.Public())
		if err != nil {
			t.Fatal(err)
		}
		entry := Entry{Template: []byte("ima-sig"), Alg: "sha256", FileDigest: digest[:], Signature: sig}
		if n, err := entry.Signed([]Key{stranger, key}); n != 1 || err != nil || !entry.Signable() {
			t.Errorf("%s: key %d, %v", name, n, err)
		}
		if _, err := entry.Signed([]Key{stranger}); !errors.Is(err, ErrSignerUnknown) {
			t.Errorf("%s, by a stranger: %v", name, err)
		}
		edited := entry
		edited.FileDigest = bytes.Repeat([]byte{1}, 32)
		if _, err := edited.Signed([]Key{key}); !errors.Is(err, ErrSignature) {
			t.Errorf("%s, of another file: %v", name, err)
		}
		edited.Alg, edited.FileDigest = "sha512", bytes.Repeat([]byte{1}, 64)
		if _, err := edited.Signed([]Key{key}); !errors.Is(err, ErrSignatureWeak) {
			t.Errorf("%s, measured by another hash: %v", name, err)
		}
		edited = entry
		edited.Signature = sig[:len(sig)-1]
		if _, err := edited.Signed([]Key{key}); !errors.Is(err, ErrNotSigned) {
			t.Errorf("%s, cut off: %v", name, err)
		}
	}
	if _, err := NewKey(&r.D); err == nil {
		t.Error("a number is taken for a key")
	}
}

// FuzzSigned: whatever the third field holds.
func FuzzSigned(f *testing.F) {
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	key, err := NewKey(k.Public())
	if err != nil {
		f.Fatal(err)
	}
	digest := sha256.Sum256(nil)
	sig, err := ecdsa.SignASN1(rand.Reader, k, digest[:])
	if err != nil {
		f.Fatal(err)
	}
	head := append([]byte{digsigType, digsigVersion, 4}, key.id[:]...)
	good := append(append(head, 0, byte(len(sig))), sig...)
	f.Add(good, []byte("ima-sig"), digest[:])
	f.Add(good[:9], []byte("ima-sigv2"), digest[:])
	f.Fuzz(func(t *testing.T, signature, template, digest []byte) {
		e := Entry{Template: template, Alg: "sha256", FileDigest: digest, Signature: signature}
		if _, err := e.Signed([]Key{key}); err == nil && !ecdsa.VerifyASN1(&k.PublicKey, digest, signature[digsigHead:]) {
			t.Fatal("accepted what the key did not sign")
		}
	})
}
