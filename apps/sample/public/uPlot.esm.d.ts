// Served from the package, beside the files of this folder.
export { default } from 'uplot'
