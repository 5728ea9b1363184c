import { redactCredentials } from '@millrace/core'

/** Longer texts of a provider are clipped to this many characters. */
const maxChars = 2048

/** `text` without the given secrets and without anything that looks like a credential, clipped, control characters out. */
export function redact(text: string, secrets: readonly string[]): string {
  let clean = text
  for (const secret of secrets) if (secret.length >= 4) clean = clean.replaceAll(secret, '[redacted]')
  clean = redactCredentials(clean)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed; a log line must stay one line
  clean = clean.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ')
  return clean.length > maxChars ? `${clean.slice(0, maxChars)}…` : clean
}
