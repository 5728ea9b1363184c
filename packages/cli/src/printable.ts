/**
 * Text for a terminal: control characters and marks that turn the direction of writing, which may come from a file or a
 * server, as escapes. Line breaks stay.
 *
 * @example
 * printable('a\u009b2Jb') // 'a\\u009b2Jb'
 */
export function printable(text: string): string {
  return text.replace(
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it looks for
    /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, '0')}`
  )
}
