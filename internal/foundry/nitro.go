package foundry

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"

	"github.com/keystead/keystead/evidence"
)

// AWS is a made-up AWS with one enclave.
type AWS struct {
	root, region, leaf *authority
}

// NewAWS makes one.
func NewAWS() *AWS {
	root := (*authority)(nil).issue(elliptic.P384(), "aws.nitro-enclaves", true)
	region := root.issue(elliptic.P384(), "region.aws.nitro-enclaves", true)
	return &AWS{root, region, region.issue(elliptic.P384(), "i-0abc-enc0123.aws", false)}
}

// Roots pin the vendor's root.
func (a *AWS) Roots() evidence.VendorRoots { return a.root.roots() }

// Document makes a signed document; edit alters its payload before it is signed.
func (a *AWS) Document(nonce, userData []byte, edit func(payload map[string]any)) []byte {
	pcrs := map[int][]byte{}
	for i := range 16 {
		pcrs[i] = bytes.Repeat([]byte{byte(0x10 + i)}, 48)
	}
	payload := map[string]any{"module_id": "i-0abc-enc0123", "timestamp": uint64(Now.UnixMilli()), "digest": "SHA384", "pcrs": pcrs,
		"certificate": a.leaf.cert.Raw, "cabundle": [][]byte{a.root.cert.Raw, a.region.cert.Raw},
		"public_key": nil, "user_data": userData, "nonce": nonce}
	if edit != nil {
		edit(payload)
	}
	return a.Sign(must(cbor.Marshal(payload)))
}

// Sign makes a COSE_Sign1 of any payload, without a tag, as the module does.
func (a *AWS) Sign(payload []byte) []byte {
	m := cose.UntaggedSign1Message{Headers: cose.Headers{Protected: cose.ProtectedHeader{cose.HeaderLabelAlgorithm: cose.AlgorithmES384}}, Payload: payload}
	signer := must(cose.NewSigner(cose.AlgorithmES384, a.leaf.key))
	if err := m.Sign(rand.Reader, nil, signer); err != nil {
		panic(err)
	}
	return must(m.MarshalCBOR())
}
